"""Looking instead of being told: always, or for a while before sleeping."""

from __future__ import annotations

import os
from typing import ClassVar

import trio

from ._eventfd import EventFd
from ._seated import Seated
from ._window import SpinWindow, window_for_this_host


class Polling(Seated):
    """No notification at all: who waits looks for the length of `window`, lets others run, repeats.

    The quickest doorbell, for the price of a CPU.
    """

    name: ClassVar[str] = "polling"
    notifies: ClassVar[bool] = False

    def __init__(self, *, window: SpinWindow | None = None) -> None:
        super().__init__()
        self.window = window or window_for_this_host(fixed=True)

    def ring(self) -> None:
        """Do nothing: the waiter looks anyway."""
        self._enter(rings=1)
        self._leave()

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> None:
        """Let other tasks run once; raises what `Doorbell.wait` raises."""
        self._sit_in_trio()
        try:
            os.sched_yield()  # the peer may wait for this very CPU: 0.2 us against a tick of 4 ms
            await trio.lowlevel.checkpoint()
            self._check_open()
            self._wakes += 1
        finally:
            self._rise()

    def wait_blocking(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        """Let other threads run once and return True."""
        self._sit()
        try:
            os.sched_yield()
            self._check_open()
            self._wakes += 1
        finally:
            self._rise()
        return True


class Adaptive(EventFd):
    """An eventfd whose waiter first looks for the length of `window`, which follows the traffic.

    Where looking does not pay (one CPU, a slow peer) the window shuts, and it is an EventFd.
    """

    name: ClassVar[str] = "adaptive"

    def __init__(self, *, window: SpinWindow | None = None, _fd: int | None = None) -> None:
        super().__init__(_fd=_fd)
        self.window = window or window_for_this_host()
