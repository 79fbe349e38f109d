"""One split queue as a driver sets it up: its size, its three parts, and what 2.7 asks of them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ._errors import refuse

__all__ = ()  # of use to this room only

MAX_QUEUE_SIZE = 32768
"""The largest power of two at which 16-bit indices tell a full ring from an empty one (2.7)."""

_PARTS = (("descriptor table", 16), ("driver ring", 2), ("device ring", 4))  # alignment by 2.7.1


class RingSizes(NamedTuple):
    """How many bytes each part of a split queue takes."""

    desc: int
    driver: int
    device: int


def ring_sizes(size: int) -> RingSizes:
    """Return the bytes of the parts of a split queue with `size` descriptors (2.7)."""
    return RingSizes(16 * size, 6 + 2 * size, 6 + 8 * size)


def is_queue_size(size: int) -> bool:
    """Say whether a split queue may have this size: a power of two up to 32768 (2.7)."""
    return 0 < size <= MAX_QUEUE_SIZE and not size & (size - 1)


class QueueState(msgspec.Struct, frozen=True):
    """One queue as the driver has set it up; addresses are guest-physical."""

    max_size: int
    size: int = 0
    """The number of descriptors; 0 until the driver has set the queue up."""
    desc: int = 0
    driver: int = 0
    device: int = 0
    enabled: bool = False

    def parts(self) -> tuple[range, range, range]:
        """Return the bytes of the descriptor table, the driver ring and the device ring."""
        sizes = ring_sizes(self.size)
        return (
            range(self.desc, self.desc + sizes.desc),
            range(self.driver, self.driver + sizes.driver),
            range(self.device, self.device + sizes.device),
        )

    def check(self, index: int) -> None:
        """Raise `NegotiationError` if the size or an address of queue `index` breaks a rule."""
        if not is_queue_size(self.size):
            refuse("2.7", f"queue {index} has size {self.size}, no power of two up to 32768")
        if self.size > self.max_size:
            refuse("4.2.2.2", f"queue {index} has size {self.size}, more than {self.max_size}")
        parts = self.parts()
        for (name, alignment), part in zip(_PARTS, parts, strict=True):
            if part.start % alignment:
                refuse("2.7.1", f"the {name} of queue {index} is not aligned to {alignment}")
            if part.start < 0 or part.stop > 1 << 64:
                refuse("2.7", f"the {name} of queue {index} lies beyond the last address")
        for one, other in (0, 1), (0, 2), (1, 2):
            if _overlap(parts[one], parts[other]):
                names = f"{_PARTS[one][0]} and {_PARTS[other][0]}"
                refuse("2.7", f"{names} of queue {index} overlap")

    def overlaps(self, other: QueueState) -> bool:
        """Say whether any part of this queue has bytes in common with any part of the other."""
        return any(_overlap(a, b) for a in self.parts() for b in other.parts())


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop
