"""Whether a machine can become what a snapshot says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._kvm import lib
from ._document import SnapshotError
from ._pages import check_pages
from ._processor import check_processor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._link import MachineLink
    from ._document import Snapshot

__all__ = ("check_snapshot",)


def check_snapshot(
    snapshot: Snapshot, *, memory_size: int, ring: int, vcpus: int, links: Sequence[MachineLink]
) -> None:
    """Raise SnapshotError where it was of another machine, or of none that can be."""
    rows = (
        ("bytes of memory", snapshot.memory_size, memory_size),
        ("as its privilege ring", snapshot.ring, ring),
        ("vCPUs", len(snapshot.vcpus), vcpus),
        ("devices", len(snapshot.links), len(links)),
    )
    for what, theirs, ours in rows:
        if theirs != ours:
            raise SnapshotError(f"the snapshot has {theirs} {what}, this machine {ours}")
    if not lib.PV_PAYLOAD <= snapshot.end <= memory_size:
        raise SnapshotError(f"a payload that ends at {snapshot.end:#x}, outside of memory")
    check_pages(snapshot.memory, memory_size)
    check_pages(snapshot.text.extents, memory_size)
    for processor in snapshot.vcpus:
        check_processor(processor)
    for index, (link, record) in enumerate(zip(links, snapshot.links, strict=True)):
        theirs, ours = record.block.device.device_id, link.state.device.device_id
        if theirs != ours:
            raise SnapshotError(f"device {index} is of type {ours}, in the snapshot {theirs}")
