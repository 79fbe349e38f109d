"""The kick of a live queue, whose doorbell may be changed under traffic.

Both doorbells are registered and the server waits at both until no driver can ring the old one any
more; then the old one goes, and the server looks at the ring once regardless. A driver that
is idle is told under a lock, or woken by a call to look. Spin searches tests/model/swap.pml, a
model of this, for a request that is left behind.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import trio

from paravirt.doorbells import Doorbell, DoorbellStatistics, wait_for_any

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.doorbells import DoorbellMaker

__all__ = ("SwapRefused", "SwappableKick")

FIRST_PAUSE: Final = 50e-6
"""Seconds between two looks whether the drivers have moved over: about one sleep of this host."""
LONGEST_PAUSE: Final = 1e-3
"""The same once they take long: they are idle, and the look is a few loads."""


class SwapRefused(Exception):
    """The doorbell of a queue cannot be changed; the message says why."""


class DriverEnd(Protocol):
    """A driver that rings without calling `SwappableKick.ring`: a guest, or a loop in C."""

    def admit(self, bell: Doorbell) -> None:
        """Make it possible to ring this doorbell; raises what refuses it."""
        ...

    def tell(self, bell: Doorbell) -> None:
        """Have the driver ring this one, admitted before, from its next kick on."""
        ...

    def moved(self) -> bool:
        """Say whether no kick by any but the doorbell told last is on its way or can follow."""
        ...

    def drop(self, bell: Doorbell) -> None:
        """Undo `admit`; when it returns, nothing rings this one any more."""
        ...


class _Turn:
    """The time of one doorbell as the one to ring, and how many ring it now."""

    def __init__(self, bell: Doorbell) -> None:
        self.bell = bell
        self.inside = 0


class SwappableKick(Doorbell):
    """A doorbell that stays while the real ones behind it change.

    Drivers of this process call `ring`, which is told of a change under a lock: an idle one has
    moved over at once. Others are `enrol`led. The server waits here. From the outside it looks
    like the doorbell that it has: `name`, `notifies` and `window` are that one's.
    """

    def __init__(self, bell: Doorbell) -> None:
        self._lock = threading.RLock()
        self._turn = _Turn(bell)
        self._earlier: list[_Turn] = []
        self._drivers: list[DriverEnd] = []
        self._swapping = False
        self._closed = False
        self._past = DoorbellStatistics(rings=0, wakes=0, waiting=False, closed=False)
        self._listen_to(bell)

    def _listen_to(self, *bells: Doorbell) -> None:
        """Wait at these from the next wait on; the last is the newest."""
        self._bells: tuple[Doorbell, ...] = bells
        newest = bells[-1]
        self.name = newest.name  # type: ignore[misc]
        self.window = newest.window
        self.notifies = all(bell.notifies for bell in bells)  # type: ignore[misc]

    # As a doorbell.

    @property
    def bell(self) -> Doorbell:
        """The doorbell that is rung now."""
        return self._turn.bell

    def ring(self) -> None:
        """Ring the doorbell of now; see `Doorbell.ring`."""
        with self._lock:
            turn = self._turn
            turn.inside += 1
        try:
            turn.bell.ring()
        finally:
            with self._lock:
                turn.inside -= 1

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> None:
        """Wait for a ring of any doorbell that may be rung; see `Doorbell.wait`.

        Cancelled, it consumes no ring. A doorbell that was changed may be let go of all the same.
        """
        if self._earlier:
            self._finish_if_moved()
        bells = self._bells
        try:
            await (bells[0].wait() if len(bells) == 1 else wait_for_any(bells))
        except trio.ClosedResourceError:
            if self._closed:
                raise
            await trio.lowlevel.checkpoint()  # it went while we waited: a spurious return

    def wait_blocking(self, timeout: float | None = None) -> bool:
        """Wait in a thread without trio; raises RuntimeError while the doorbell is changed."""
        if self._earlier:
            raise RuntimeError("the doorbell is being changed, which is heard of under trio only")
        return self.bell.wait_blocking(timeout)

    def fileno(self) -> int | None:
        """Give the descriptor of the doorbell of now; see `Doorbell.fileno`."""
        return self.bell.fileno()

    def describe(self) -> str:
        """Say which doorbell it is now."""
        return self.bell.describe()

    def close(self) -> None:
        """Close every doorbell that there is; idempotent."""
        with self._lock:
            self._closed = True
            for bell in self._bells:
                bell.close()

    def statistics(self) -> DoorbellStatistics:
        """Count over all doorbells that this was; the window is the newest's."""
        with self._lock:
            now = [bell.statistics() for bell in self._bells]
            every = [self._past, *now]
            return DoorbellStatistics(
                rings=sum(each.rings for each in every),
                wakes=sum(each.wakes for each in every),
                waiting=any(each.waiting for each in now),
                closed=self._closed,
                window_ns=now[-1].window_ns,
                hits=sum(each.hits for each in every),
                misses=sum(each.misses for each in every),
            )

    # Changing it.

    def enrol(self, driver: DriverEnd) -> None:
        """Take in a driver that rings by itself, and tell it what; raises what refuses it."""
        with self._lock:
            self._check_open()
            driver.admit(self.bell)
            driver.tell(self.bell)
            self._drivers.append(driver)

    def dismiss(self, driver: DriverEnd) -> None:
        """Let go of a driver that rings no more."""
        with self._lock:
            self._drivers.remove(driver)
            for bell in self._bells:
                driver.drop(bell)

    async def swap(self, maker: DoorbellMaker, owe_call: Callable[[], None]) -> None:
        """Change the doorbell, in any trio run; see `Loopback.swap`.

        `owe_call` wakes drivers that sleep, once they have been told. Cancelled, the doorbell
        before stays, unless nobody can ring it any more by then; the one that goes is closed as
        soon as nobody can, by a `wait` if not at once. Raises as `Loopback.swap` does.
        """
        await trio.lowlevel.checkpoint()
        with self._lock:
            self._check_open()
            if self._swapping:
                raise trio.BusyResourceError(f"being changed already: {self.describe()}")
            self._swapping = True
        try:
            await self._until_moved()  # after a swap that was cancelled it may take a while
            self._begin(maker())
            try:
                owe_call()
                await self._until_moved()
            finally:
                self._take_back_unless_moved()
        finally:
            self._swapping = False

    async def _until_moved(self) -> None:
        pause = FIRST_PAUSE
        while not self._finish_if_moved():
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _begin(self, bell: Doorbell) -> None:
        admitted: list[DriverEnd] = []
        try:
            with self._lock:
                self._check_open()
                for driver in self._drivers:
                    driver.admit(bell)
                    admitted.append(driver)
                self._listen_to(self.bell, bell)
                self._move_to(bell)
        except BaseException:
            self._listen_to(self.bell)
            for driver in admitted:
                driver.drop(bell)
            bell.close()
            raise

    def _move_to(self, bell: Doorbell) -> None:
        """Have all drivers ring this one; whoever waits at the others only is woken first."""
        self.bell.ring()
        self._earlier.append(self._turn)
        self._turn = _Turn(bell)
        for driver in self._drivers:
            driver.tell(bell)

    def _moved(self) -> bool:
        return not any(turn.inside for turn in self._earlier) and all(
            driver.moved() for driver in self._drivers
        )

    def _finish_if_moved(self) -> bool:
        """Let go of the doorbell that nobody rings any more; False if somebody may still.

        Raises ClosedResourceError.
        """
        with self._lock:
            self._check_open()
            if len(self._bells) == 1:
                return True
            if not self._moved():
                return False
            (gone,) = (bell for bell in self._bells if bell is not self.bell)
            self._earlier.clear()
            self._listen_to(self.bell)
            for driver in self._drivers:
                driver.drop(gone)
            self._remember(gone)
            self.bell.ring()  # what the old one held is lost, so the ring is looked at regardless
        gone.close()
        return True

    def _take_back_unless_moved(self) -> None:
        """Return to the doorbell before; the new one goes when nobody can ring it any more."""
        with self._lock, suppress(trio.ClosedResourceError):
            if not self._finish_if_moved():
                old, new = self._bells  # in this order, since only a swap that is over is followed
                self._listen_to(new, old)
                self._move_to(old)
                self._finish_if_moved()

    def _remember(self, bell: Doorbell) -> None:
        past, last = self._past, bell.statistics()
        self._past = DoorbellStatistics(
            rings=past.rings + last.rings,
            wakes=past.wakes + last.wakes,
            waiting=False,
            closed=False,
            hits=past.hits + last.hits,
            misses=past.misses + last.misses,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"doorbell closed: {self.describe()}")
