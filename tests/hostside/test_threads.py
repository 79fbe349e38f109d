"""A driver in another thread, as a guest is: both sides run at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import KINDS, Direct
from paravirt.guestside import SyncDriver
from paravirt.hostside import Device, Request, serve
from paravirt.transport import loopback

from .serving import Echo

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.doorbells import Doorbell
    from paravirt.transport import Loopback

Sent = list[tuple[bytes, int]]


class Mixed(Device):
    """Suspends at every third request."""

    device_id = 42
    queue_sizes = (64,)

    async def handle(self, request: Request) -> None:
        data = request.read()
        if int(data) % 3 == 0:
            await trio.lowlevel.checkpoint()
        request.reply(data)


def one_by_one(driver: SyncDriver, requests: Sent) -> list[bytes]:
    return [driver.request(*one) for one in requests]


def all_at_once(driver: SyncDriver, requests: Sent) -> list[bytes]:
    return driver.request_many(requests)


def converse(
    link: Loopback, way: Callable[[SyncDriver, Sent], list[bytes]], count: int
) -> list[bytes]:
    with SyncDriver(link) as driver:
        return way(driver, [(b"%d" % i, 16) for i in range(count)])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Direct])
@pytest.mark.parametrize("device", [Echo, Mixed])
@pytest.mark.parametrize("way", [one_by_one, all_at_once])
async def test_no_request_is_lost_between_threads(
    kind: type[Doorbell],
    device: type[Device],
    way: Callable[[SyncDriver, Sent], list[bytes]],
) -> None:
    """A lost wakeup would show as a hang."""
    served = device()
    link = loopback(served, doorbell=kind)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, served, link)
        replies = await trio.to_thread.run_sync(converse, link, way, 1000)
        link.close()

    assert replies == [b"%d" % i for i in range(1000)]
