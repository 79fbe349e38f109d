"""Who changes the doorbell, and the device that counts what comes."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING, Protocol

import trio

from paravirt.hostside import Device, Request

from ._row import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paravirt.doorbells import Doorbell, DoorbellMaker

    from ._row import Load, Plan


class Counting(Device):
    """Sends every request back; each begins with its number, and the numbers count from 0 up."""

    device_id = 42
    queue_sizes = (256,)

    def __init__(self) -> None:
        self.requests = 0
        """How many different ones came."""
        self.missed = 0
        """Numbers that were passed over."""
        self.repeated = 0
        """Requests whose number had come, or had been passed over."""
        self._due = 0

    def handle(self, request: Request) -> None:
        """Look whether its turn has come, and answer."""
        data = request.read()
        number = int.from_bytes(data[:8], "little")
        if number < self._due:
            self.repeated += 1
        else:
            self.missed += number - self._due
            self._due = number + 1
            self.requests += 1
        request.reply(data)


class Swappable(Protocol):
    """A link whose doorbells can be changed."""

    async def swap(self, maker: DoorbellMaker, queue: int = 0) -> None:
        """Change the one of a queue."""
        ...


class Swaps:
    """Changes a doorbell at fixed times, from the kind it has to another, drawn by the seed."""

    def __init__(self, kinds: Sequence[type[Doorbell]], plan: Plan) -> None:
        self.kinds = list(kinds)
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._seconds: list[float] = []
        self.late = 0

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self._seconds)

    @property
    def median_ms(self) -> float | None:
        """How long one took."""
        return 1000 * statistics.median(self._seconds) if self._seconds else None

    @property
    def longest_ms(self) -> float | None:
        """How long the longest took."""
        return 1000 * max(self._seconds, default=0.0) if self._seconds else None

    async def run(
        self, link: Swappable, first: type[Doorbell], progress: Callable[[float], None]
    ) -> None:
        """Change it until the time is over, telling `progress` how many seconds that were.

        Cancelled, it leaves the doorbell that `swap` leaves.
        """
        kind = first
        began = due = trio.current_time()
        end = began + self._plan.seconds
        while (now := trio.current_time()) < end:
            progress(now - began)
            kind = self._random.choice([other for other in self.kinds if other is not kind])
            await link.swap(kind)
            done = trio.current_time()
            self._seconds.append(done - now)
            due += self._plan.every
            if done > due:
                self.late += 1
                due = done
            await trio.sleep_until(due)


def make_row(
    load: Load, plan: Plan, swaps: Swaps, device: Counting, *, failure: str, sent: int | None
) -> Row:
    """Judge a load by what its driver says, and what came; `sent` is None if it could not say."""
    lost = None if sent is None else sent - device.requests
    if not failure and (lost or device.missed or device.repeated):
        failure = "requests were lost or repeated"
    return Row(
        load=load.name,
        available=True,
        outcome=failure or "ok",
        seconds=plan.seconds,
        kinds=[kind.name for kind in swaps.kinds],
        swaps=swaps.count,
        late=swaps.late,
        swap_ms_p50=swaps.median_ms,
        swap_ms_max=swaps.longest_ms,
        requests=sent,
        lost=lost,
        repeated=device.repeated,
    )
