"""A machine that stands still: recorded, or made what a record says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport import NegotiationError, PeerError

from .snapshot import (
    Snapshot,
    SnapshotError,
    VcpuRecord,
    check_cpu,
    check_snapshot,
    put_pages,
    put_processor,
    take_pages,
    take_processor,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.doorbells.kvm import Vendor
    from paravirt.transport import Memory

    from ._link import MachineLink
    from ._vm import Vm
    from .text import Text

__all__ = ()  # of use to this room only


class Standing:
    """The parts of a machine of which no vCPU runs."""

    def __init__(self, vm: Vm, memory: Memory, links: Sequence[MachineLink], ring: int) -> None:
        self._vm = vm
        self._memory = memory
        self._size = memory.regions[0].size
        self._links = links
        self._ring = ring

    def record(self, *, end: int, text: Text) -> Snapshot:
        """Return all of it. Raises SnapshotError for a device that cannot be recorded now."""
        vcpus: list[VcpuRecord] = []
        for vcpu in self._vm.vcpus:
            vcpu.settle()
            vcpus.append(take_processor(vcpu.fd, self._vm.kvm_fd))
        return Snapshot(
            memory_size=self._size,
            ring=self._ring,
            end=end,
            vendor=self._vm.vendor(),
            cpuid=self._vm.vcpus[0].cpuid,
            vcpus=tuple(vcpus),
            links=tuple(link.snapshot() for link in self._links),
            memory=take_pages(self._memory, self._size),
            text=text,
        )

    def become(self, snapshot: Snapshot, *, vendor: Vendor | None, other_cpu: bool) -> None:
        """Make it what a snapshot says, after all that can be compared was compared.

        Raises SnapshotError, naming what differs or cannot be.
        """
        check_snapshot(
            snapshot,
            memory_size=self._size,
            ring=self._ring,
            vcpus=len(self._vm.vcpus),
            links=self._links,
        )
        if not other_cpu:
            check_cpu(snapshot, self._vm.vcpus[0].cpuid, makers=vendor is None)
        self._load_devices(snapshot)
        if vendor is not None:
            self._vm.pretend(vendor)
        put_pages(self._memory, snapshot.memory, self._size)
        other_cpu |= snapshot.vendor != self._vm.vendor()
        for vcpu, processor in zip(self._vm.vcpus, snapshot.vcpus, strict=True):
            put_processor(vcpu.fd, processor, other_cpu=other_cpu)
        for index, (link, record) in enumerate(zip(self._links, snapshot.links, strict=True)):
            try:
                link.restore(record)
            except (NegotiationError, PeerError, ValueError) as error:
                raise SnapshotError(f"device {index}: {error}") from error

    def _load_devices(self, snapshot: Snapshot) -> None:
        for index, (link, record) in enumerate(zip(self._links, snapshot.links, strict=True)):
            try:
                link.device.load_state(record.state)
            except NegotiationError as error:
                raise SnapshotError(f"device {index}: {error}") from error
