"""What the queues of one trio run know of each other, so that none spins while another has work."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ()  # of use to this room only


class Loop:
    """Counts over all queues served by one trio run, and its clock."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        """Nanoseconds, by which a queue shares the loop and holds completions back."""
        self.busy = 0
        """Queues whose last turn brought work."""
        self.handling = 0
        """Handlers that were started and have not finished."""


_current: trio.lowlevel.RunVar[Loop] = trio.lowlevel.RunVar("paravirt_loop")


def current_loop() -> Loop:
    """Return the counts of this trio run."""
    try:
        return _current.get()
    except LookupError:
        loop = Loop(_clock())
        _current.set(loop)
        return loop


def _clock() -> Callable[[], int]:
    """Return the real clock, or the mock clock of a test, whose run then repeats by its seed."""
    testing = sys.modules.get("trio.testing")
    clock = trio.lowlevel.current_clock()
    if testing is None or not isinstance(clock, testing.MockClock):
        return time.perf_counter_ns
    return lambda: int(clock.current_time() * 1e9)
