"""Faults between the two ends of a loopback, for tests.

Notifications come late, twice, out of order or never; a device stops or breaks down. The first
three change nothing but time. A dropped notification is outside a doorbell's contract:
with EVENT_IDX the peer, which thinks it was heard, rings no more either, so the request waits until
it is cancelled and the driver resets the device.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import trio

from paravirt.doorbells import Doorbell, DoorbellStatistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.doorbells import SpinWindow

    from ._device_ring import DeviceRing

__all__ = ("Faults",)

Way = Literal["kick", "call"]
Fault = Literal["drop", "delay", "duplicate", "reorder", "stop", "break"]

_log = logging.getLogger("paravirt.faults")
_CHANCES: dict[Fault, float] = {"delay": 0.1, "duplicate": 0.1, "reorder": 0.1}


class _Link(Protocol):
    def ring(self, queue: int) -> DeviceRing | None: ...

    def kick(self, queue: int) -> Doorbell: ...

    def need_reset(self) -> None: ...


class Faults:
    """What to do to the notifications of one loopback: at random from a seed, or one by one.

    Raises `ValueError` for chances that add up to more than 1, or are given without a seed.

    With a seed each notification meets each fault by `chances`; by default a tenth each are
    delayed, duplicated and reordered. `drop`, `stop` (the device takes no requests for `delay`
    seconds, in mid-batch) and `break` (it sets DEVICE_NEEDS_RESET) happen only if they are given a
    chance. `repr` has the seed; a warning with it is logged, which pytest shows beside a failure.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        chances: dict[Fault, float] | None = None,
        delay: float = 0.01,
    ) -> None:
        if chances is not None and seed is None:
            raise ValueError("chances need a seed, or a failure could not be repeated")
        self.seed = seed
        self.delay = delay
        self.injected: list[tuple[Fault, Way, int]] = []
        """What was done so far, in order."""
        self._chances = dict(_CHANCES if chances is None else chances) if seed is not None else {}
        if unknown := self._chances.keys() - get_args(Fault):
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        if sum(self._chances.values()) > 1 or min(self._chances.values(), default=0) < 0:
            raise ValueError(f"these are no chances: {self._chances}")
        self._random = random.Random(seed)
        self._next: dict[tuple[Way, int], deque[Fault]] = defaultdict(deque)
        self._held: list[Callable[[], None]] = []
        self._lock = threading.Lock()  # the two ends may be in two threads
        if seed is not None:
            _log.warning("faults are injected: %r", self)

    def __repr__(self) -> str:
        return f"Faults(seed={self.seed}, chances={self._chances}, delay={self.delay})"

    def drop_next(self, way: Way, queue: int = 0) -> None:
        """Lose the next notification."""
        self._next[way, queue].append("drop")

    def delay_next(self, way: Way, queue: int = 0) -> None:
        """Deliver the next notification `delay` seconds later."""
        self._next[way, queue].append("delay")

    def duplicate_next(self, way: Way, queue: int = 0) -> None:
        """Deliver the next notification at once, and again `delay` seconds later."""
        self._next[way, queue].append("duplicate")

    def reorder_next(self, way: Way, queue: int = 0) -> None:
        """Deliver the next notification after the one that follows it, on any queue.

        If none follows, `delay` seconds later.
        """
        self._next[way, queue].append("reorder")

    def stop_next(self, way: Way, queue: int = 0) -> None:
        """Stop the device in mid-batch at the next notification.

        It takes one more request of this queue, and for `delay` seconds none.
        """
        self._next[way, queue].append("stop")

    def break_next(self, way: Way, queue: int = 0) -> None:
        """Have the device set DEVICE_NEEDS_RESET at the next notification."""
        self._next[way, queue].append("break")

    def wrap(self, bell: Doorbell, link: _Link, way: Way, queue: int) -> Doorbell:
        """Put the faults in front of a doorbell."""
        return Faulty(bell, self, link, way, queue)

    def meet(self, bell: Doorbell, link: _Link, way: Way, queue: int) -> None:
        """Deliver a notification, or do to it what its turn is."""
        with self._lock:
            fault = self._choose(way, queue)
            held, self._held = self._held, []
            if fault is not None:
                self.injected.append((fault, way, queue))
        if fault is None:
            bell.ring()
        else:
            self._inject(fault, bell, link, queue)
        for ring in held:
            ring()

    def _choose(self, way: Way, queue: int) -> Fault | None:
        if self._next[way, queue]:
            return self._next[way, queue].popleft()
        chance = self._random.random()
        for fault, share in self._chances.items():
            chance -= share
            if chance < 0:
                return fault
        return None

    def _inject(self, fault: Fault, bell: Doorbell, link: _Link, queue: int) -> None:
        match fault:
            case "drop":
                pass
            case "delay":
                _later(self.delay, bell.ring)
            case "duplicate":
                bell.ring()
                _later(self.delay, bell.ring)
            case "reorder":
                ring = _once(bell.ring)
                with self._lock:
                    self._held.append(ring)
                _later(self.delay, ring)
            case "stop":
                self._stop(link, queue)
                bell.ring()
            case "break":
                link.need_reset()
                bell.ring()

    def _stop(self, link: _Link, queue: int) -> None:
        ring = link.ring(queue)
        if ring is None:
            return
        ring.limit = 1
        kick = link.kick(queue)
        bell = kick.bell if isinstance(kick, Faulty) else kick  # this one meets no fault

        def go_on() -> None:
            ring.limit = None
            bell.ring()

        _later(self.delay, go_on)


def _once(ring: Callable[[], None]) -> Callable[[], None]:
    """Make a function that rings the first time only."""
    left = [ring]

    def first() -> None:
        if left:
            left.pop()()

    return first


def _later(seconds: float, action: Callable[[], None]) -> None:
    """Do it later, in this trio run if there is one (by its clock), else in a thread."""

    def act() -> None:
        try:
            action()
        except trio.ClosedResourceError:
            pass  # the link was closed in the meantime

    async def wait() -> None:
        await trio.sleep(seconds)
        act()

    if trio.lowlevel.in_trio_run():
        trio.lowlevel.spawn_system_task(wait)
    else:
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        timer.start()


class Faulty(Doorbell):
    """A doorbell whose rings meet faults; everything else is the real one's."""

    def __init__(self, bell: Doorbell, faults: Faults, link: _Link, way: Way, queue: int) -> None:
        self.bell = bell
        self._faults = faults
        self._link = link
        self._way: Way = way
        self._queue = queue

    # The bell's of now, since a swap changes it; nobody sets them here.

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.bell.name

    @property
    def notifies(self) -> bool:  # type: ignore[override]
        return self.bell.notifies

    @property
    def window(self) -> SpinWindow | None:  # type: ignore[override]
        return self.bell.window

    def ring(self) -> None:
        self._faults.meet(self.bell, self._link, self._way, self._queue)

    async def wait(self) -> None:
        await self.bell.wait()

    def wait_blocking(self, timeout: float | None = None) -> bool:
        return self.bell.wait_blocking(timeout)

    def fileno(self) -> int | None:
        return self.bell.fileno()

    def describe(self) -> str:
        return f"{self.bell.describe()} with faults"

    def close(self) -> None:
        self.bell.close()

    def statistics(self) -> DoorbellStatistics:
        return self.bell.statistics()
