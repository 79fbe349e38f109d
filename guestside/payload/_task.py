"""What the payload is told to do: its boot page's arguments (`enum pv_argument` in payload.h)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from paravirt.doorbells.kvm import BootPage

__all__ = ("STAMP", "Operation", "Program", "Task", "stop")

STAMP: Final = 14
"""Index of the argument that the guest sets: its cycle counter when it last published."""
STOP: Final = 15
"""Index of the argument that the host sets to end a task without a count."""

DEPTH_MAX: Final = 256
QUEUES_MAX: Final = 8
SIZE_MAX: Final = 65536


class Program(enum.IntEnum):
    """What the payload can do; `enum pv_program`."""

    ECHO = 1
    """Send requests to a device that sends them back, and look at every answer."""
    BLOCK = 2
    """Write a pattern to a disk, flush, read it back and compare."""
    KICK = 3
    """Ring the doorbell of queue 0 with nothing in the ring, and time each."""
    IDLE = 4
    """Sleep until interrupted, again and again."""
    LOAD = 5
    """Send requests that a device answers with nothing, and only count: the load of a benchmark."""


class Operation(enum.IntFlag):
    """What `Program.BLOCK` does, in this order; `enum pv_operation`."""

    WRITE = 1
    FLUSH = 2
    READ = 4
    ALL = 7


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One program and how to run it."""

    program: Program
    count: int
    """Requests, kicks or interrupts in all; 0: until the host sets the argument `STOP`, for a disk
    as many requests as it has room for."""
    depth: int = 1
    """Requests in flight on a queue, up to 256."""
    interrupt: bool = False
    """Sleep until an interrupt instead of looking at the ring again and again."""
    size: int = 0
    """Bytes a request, up to 65536; 0: 4096 for a disk (whole sectors), 64 for the others."""
    queues: int = 1
    """How many queues of the device, from 0 on, up to 8."""
    seed: int = 0
    """Of the pattern in the requests."""
    patience: int = 0
    """Cycles without an answer after which the device counts as silent, when polling; 0: never."""
    operations: Operation = Operation.ALL
    """What to do to a disk."""
    features: int = 0
    """Of the ring's optional features those that may be taken; 0: all that the payload knows."""

    def arguments(self) -> tuple[int, ...]:
        """Return the boot page's arguments.

        Raises ValueError for what the payload would refuse.
        """
        if not 1 <= self.depth <= DEPTH_MAX:
            raise ValueError(f"a depth is 1 to {DEPTH_MAX}, not {self.depth}")
        if not 1 <= self.queues <= QUEUES_MAX:
            raise ValueError(f"the payload uses 1 to {QUEUES_MAX} queues, not {self.queues}")
        if not 0 <= self.size <= SIZE_MAX:
            raise ValueError(f"a request has up to {SIZE_MAX} bytes, not {self.size}")
        if min(self.count, self.seed, self.patience, self.features) < 0:
            raise ValueError("no argument of the payload is negative")
        return (
            self.program,
            self.depth,
            self.count,
            int(self.interrupt),
            self.size,
            self.queues,
            self.seed,
            self.patience,
            self.operations,
            self.features,
        )


def stop(boot: BootPage) -> None:
    """End a task without a count: it waits for what is in flight, and reports."""
    arguments = list(boot.arguments)
    arguments[STOP] = 1
    boot.arguments = arguments
