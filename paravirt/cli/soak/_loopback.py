"""The load in this process: a driver in a thread, which compares every reply."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from paravirt.doorbells import Adaptive, Doorbell, EventFd, Polling
from paravirt.guestside import SyncDriver
from paravirt.hostside import serve
from paravirt.transport import loopback

from ._swaps import Counting, Swaps, make_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.transport import Loopback

    from ._row import Load, Plan, Row

KINDS: Final[tuple[type[Doorbell], ...]] = (EventFd, Polling, Adaptive)
"""Those that may be rung from another thread."""
PATIENCE: Final = 10.0
"""Seconds for the replies that are due at the end: they take microseconds."""
BATCH: Final = 64
"""Times the depth: as many requests go out between two looks whether it is over."""


class Asking:
    """A driver that asks until it is told to stop, or its link is closed."""

    def __init__(self, link: Loopback, depth: int) -> None:
        self._link = link
        self._depth = depth
        self._over = threading.Event()
        self.sent = 0
        self.wrong = 0
        """Replies that are not what was sent."""

    def stop(self) -> None:
        """Let it end with the requests that it has begun."""
        self._over.set()

    def run(self) -> None:
        """Ask; in a thread of its own."""
        with SyncDriver(self._link) as driver:
            while not self._over.is_set():
                self._ask(driver)

    def _ask(self, driver: SyncDriver) -> None:
        last = self.sent + self._depth * BATCH
        data = [number.to_bytes(8, "little") for number in range(self.sent, last)]
        if self._depth == 1:
            replies = [driver.request(each, 8) for each in data]
        else:
            replies = driver.request_many([(each, 8) for each in data])
        self.sent = last
        self.wrong += sum(reply != each for reply, each in zip(replies, data, strict=True))


async def soak_loopback(load: Load, plan: Plan, progress: Callable[[float], None]) -> Row:
    """Change the doorbell of a queue in this process."""
    device = Counting()
    link = loopback(device, doorbell=KINDS[0])
    asking = Asking(link, load.depth)
    swaps = Swaps(KINDS, plan)
    over = trio.Event()

    async def drive() -> None:
        with suppress(trio.BrokenResourceError):  # the link was closed: it waited in vain
            await trio.to_thread.run_sync(asking.run)
            over.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        nursery.start_soon(drive)
        try:
            await swaps.run(link, KINDS[0], progress)
            asking.stop()
            with trio.move_on_after(PATIENCE):
                await over.wait()
        finally:
            asking.stop()
            link.close()
    if not over.is_set():
        failure, sent = f"no reply within {PATIENCE:.0f} s", None
    else:
        failure = f"{asking.wrong} replies are not what was sent" if asking.wrong else ""
        sent = asking.sent
    return make_row(load, plan, swaps, device, failure=failure, sent=sent)
