"""The doorbell inside one trio run: no descriptor, no thread, the same order every time."""

from __future__ import annotations

import threading
from typing import ClassVar

import trio

from ._seated import Seated


class Direct(Seated):
    """A doorbell between two tasks of one trio run, for tests under a mock clock.

    It belongs to the thread that first rings or waits; any other gets RuntimeError from `ring`,
    `wait` and `wait_blocking`. Only `close` may come from anywhere.
    """

    name: ClassVar[str] = "direct"

    def __init__(self) -> None:
        super().__init__()
        self._rung = trio.Event()
        self._thread: int | None = None

    def ring(self) -> None:
        """Wake the waiter, or let its next wait return at once; in the waiter's thread only."""
        self._check_thread()
        self._check_open()
        self._rings += 1
        self._rung.set()

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> None:
        """Wait for a ring; see `Doorbell.wait`."""
        self._check_thread()
        self._sit_in_trio()
        try:
            await self._rung.wait()
            self._take()
        finally:
            self._rise()

    def wait_blocking(self, timeout: float | None = None) -> bool:
        """Take a ring that is there; False without one if `timeout` is 0.

        Raises RuntimeError where it would have to sleep, since only this thread could end that.
        """
        self._check_thread()
        self._sit()
        try:
            if self._rung.is_set():
                self._take()
                return True
        finally:
            self._rise()
        if timeout is None or timeout > 0:
            raise RuntimeError(
                "only the thread that would sleep can ring a Direct doorbell: use EventFd"
            )
        return False

    def _take(self) -> None:
        self._check_open()
        self._rung = trio.Event()
        self._wakes += 1

    def _check_thread(self) -> None:
        me = threading.get_ident()
        if self._thread is None:
            self._thread = me
        elif self._thread != me:
            raise RuntimeError("a Direct doorbell stays in one thread: use EventFd between threads")

    def _wake_task(self) -> None:
        self._rung.set()
