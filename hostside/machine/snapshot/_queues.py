"""A queue that runs, as numbers: what the device has in hand, and where the ring goes on."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from paravirt.transport import DeviceRing
from paravirt.transport.inflight import take_again

from ._document import QueueRecord, SnapshotError

if TYPE_CHECKING:
    from paravirt.transport import Memory, RingGeometry

__all__ = ("record", "resume")

_ENTRIES: Final = 4
"""Bytes before the entries of the available ring: flags and index (2.7.6)."""
_INDEX: Final = 1 << 16


def record(index: int, ring: DeviceRing, memory: Memory) -> QueueRecord:
    """Return where a queue stands; what it has in hand is to be done once more.

    Raises SnapshotError for a ring that is broken.
    """
    broken = ring.statistics().broken
    if broken:
        raise SnapshotError(f"queue {index} is broken ({broken}): only a reset helps")
    taken, used = ring.indices
    size, last = ring.geometry.size, taken + ring.left_behind
    offered = array("H", memory.read(ring.geometry.driver + _ENTRIES, 2 * size))
    # What was offered long ago may be overwritten: the driver has the entry back, not the chain.
    age = {offered[(last - 1 - back) % size]: back for back in reversed(range(size))}
    heads = sorted(ring.in_hand(), key=lambda head: -age.get(head, size))
    return QueueRecord(index, used, tuple(heads))


def resume(
    queue: QueueRecord, memory: Memory, geometry: RingGeometry, generation: int
) -> DeviceRing:
    """Start a ring that takes first what was in hand.

    Raises PeerError or ValueError for a record that cannot be.
    """
    if not 0 <= queue.used < _INDEX:
        raise ValueError(f"queue {queue.index} has the used index {queue.used}")
    again = take_again(geometry.size, queue.used, list(queue.heads)) if queue.heads else None
    return DeviceRing(
        memory,
        geometry,
        generation=generation,
        avail=queue.used,
        used=queue.used,
        inflight=again,
    )
