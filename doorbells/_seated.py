"""What our doorbells share: one waiter, any number of ringers, an end that waits for both."""

from __future__ import annotations

import threading

import trio

from ._base import Doorbell, DoorbellStatistics

__all__ = ()


class Seated(Doorbell):
    """A doorbell with one seat for a waiter, and a count of those who use its resources.

    `close` in one thread must not take a descriptor away from a waiter or a ringer in another: the
    number may be given to a new file at once. So the last user releases it, and a trio waiter is
    told, and its descriptor let go, only in the thread of its own run (its home). That spares the
    waiter a lock on each wait; a lock held during a ring would be worse, since the waiter that this
    ring wakes would queue for it. `_lock` is reentrant for the sake of signal handlers.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Taking the one item of a list is atomic, for a quarter of a lock's price.
        self._seat: list[None] = [None]
        self._home: trio.lowlevel.TrioToken | None = None
        self._closed = False
        self._users = 0
        self._rings = 0
        self._wakes = 0

    def _enter(self, *, rings: int = 0) -> None:
        """Begin to use the resources from any thread; pair with `_leave`."""
        with self._lock:
            self._check_open()
            self._users += 1
            self._rings += rings

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._closed and not self._users
        if last:
            self._release()

    def _sit(self) -> None:
        """Take the seat; pair with `_rise`."""
        try:
            self._seat.pop()
        except IndexError:
            self._check_open()
            raise trio.BusyResourceError(f"somebody waits already: {self.describe()}") from None
        if self._closed:
            self._rise()
            self._check_open()

    def _sit_in_trio(self) -> None:
        """Take the seat for a task; pair with `_rise`."""
        self._sit()
        home = trio.lowlevel.current_trio_token()
        if self._home is not home:
            with self._lock:
                self._home = home
                closed = self._closed
            if closed:
                self._rise()
                self._check_open()

    def _rise(self) -> None:
        self._seat.append(None)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"doorbell closed: {self.describe()}")

    def close(self) -> None:
        """Close, and wake the waiter with trio.ClosedResourceError; from any thread, idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._users += 1  # until the waiter is told
            home = self._home
            self._wake_thread()
        if home is None:
            self._leave()
        elif trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is home:
            self._end_at_home()
        else:
            try:
                home.run_sync_soon(self._end_at_home)
            except trio.RunFinishedError:
                self._leave()

    def _end_at_home(self) -> None:
        self._wake_task()
        self._leave()

    def _wake_task(self) -> None:
        """Make a waiting task notice the end; called once, in the thread of its run."""

    def _wake_thread(self) -> None:
        """Make a thread in `wait_blocking` notice the end; called once, with the lock held."""

    def _release(self) -> None:
        """Give resources back; called once, after the end and without a user left."""

    def statistics(self) -> DoorbellStatistics:
        """Count what has happened at this doorbell."""
        window = self.window
        return DoorbellStatistics(
            rings=self._rings,
            wakes=self._wakes,
            waiting=not self._seat,
            closed=self._closed,
            window_ns=window.ns if window else 0,
            hits=window.hits if window else 0,
            misses=window.misses if window else 0,
        )
