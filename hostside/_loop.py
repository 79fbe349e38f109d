"""What the queues of one trio run know of each other, so that none spins while another has work."""

from __future__ import annotations

import trio

__all__ = ()  # of use to this room only


class Loop:
    """Counts over all queues served by one trio run."""

    def __init__(self) -> None:
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
        loop = Loop()
        _current.set(loop)
        return loop
