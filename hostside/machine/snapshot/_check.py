"""Whether a machine can become what a snapshot says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from paravirt.transport import describe_features

from .._cpuid import tell_apart
from .._kvm import lib
from ._document import SnapshotError
from ._pages import check_pages
from ._processor import check_processor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._cpuid import CpuidLeaf
    from .._link import MachineLink
    from ._document import LinkRecord, Snapshot

__all__ = ("check_cpu", "check_snapshot", "check_state")

STATE_BYTES: Final = 16 << 20
"""The most that one device may keep in a snapshot, as much as goes from backend to backend."""


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
        _check_device(f"device {index}", record, link)


def _check_device(name: str, record: LinkRecord, link: MachineLink) -> None:
    there, here = record.block.device, link.state.device
    sizes = [[queue.max_size for queue in device.queues] for device in (there, here)]
    rows = (
        ("is of type", there.device_id, here.device_id),
        ("has queues of the sizes", *sizes),
        ("has this many bytes of configuration:", len(there.config), len(here.config)),
    )
    for what, theirs, ours in rows:
        if theirs != ours:
            raise SnapshotError(f"{name} {what} {ours}, in the snapshot {theirs}")
    offered = here.device_features
    if record.features != offered:
        lost, new = (
            ", ".join(describe_features(bits)) or "nothing"
            for bits in (record.features & ~offered, offered & ~record.features)
        )
        raise SnapshotError(f"{name} offers {new} more than in the snapshot, and lacks {lost}")
    check_state(record.state)


def check_state(state: bytes) -> None:
    """Raise SnapshotError for more of a device's own state than a snapshot may have."""
    if len(state) > STATE_BYTES:
        raise SnapshotError(
            f"a device has {len(state)} bytes of state, a snapshot at most {STATE_BYTES}"
        )


def check_cpu(snapshot: Snapshot, cpuid: Sequence[CpuidLeaf], *, makers: bool) -> None:
    """Raise SnapshotError where it was of another CPU; without `makers` of the same by another."""
    if told := tell_apart(snapshot.cpuid, cpuid, makers=makers):
        raise SnapshotError(f"the snapshot is of another CPU: {told}")
