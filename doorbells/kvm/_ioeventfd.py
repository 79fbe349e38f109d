"""A guest's write that KVM itself turns into an eventfd: nobody leaves the kernel."""

from __future__ import annotations

from typing import ClassVar

from ._boot_page import BellKind, GuestKick
from ._guest_bell import DoorbellRefused, ExitSource, GuestBell, refused_by_kernel
from .trial import assign_ioeventfd

__all__ = (
    "MmioDatamatch",
    "MmioIoeventfd",
    "MmioWildcard",
    "PioDatamatch",
    "PioIoeventfd",
    "PioWildcard",
)


class Ioeventfd(GuestBell):
    """What the six below share."""

    kind: ClassVar[BellKind]
    width: ClassVar[int]
    """Bytes that the guest writes."""
    wildcard: ClassVar[bool] = False
    """KVM listens to a write of any length."""
    datamatch: ClassVar[bool] = False
    """All queues share one address, and the value tells them apart."""

    def _assign(self, exits: ExitSource, queue: int) -> GuestKick:
        if self.kind is BellKind.PIO:
            if exits.architecture != "x86_64":
                raise DoorbellRefused(f"{self.name}: {exits.architecture} has no port I/O")
            address = exits.pio_port(queue, shared=self.datamatch)
        else:
            address = exits.mmio_address(queue, shared=self.datamatch)
        kick = GuestKick(self.kind, self.width, address, queue)
        with refused_by_kernel(self.name):
            self._register(exits, kick, deassign=False)
        return kick

    def _deassign(self, exits: ExitSource, kick: GuestKick) -> None:
        self._register(exits, kick, deassign=True)

    def _register(self, exits: ExitSource, kick: GuestKick, *, deassign: bool) -> None:
        assign_ioeventfd(
            exits.vm_fd,
            self._fd,
            kick.address,
            0 if self.wildcard else kick.width,
            pio=self.kind is BellKind.PIO,
            match=kick.value if self.datamatch else None,
            deassign=deassign,
        )


class PioIoeventfd(Ioeventfd):
    """OUT of two bytes, as virtio's legacy notification; x86 only."""

    name: ClassVar[str] = "pio-ioeventfd"
    kind: ClassVar[BellKind] = BellKind.PIO
    width: ClassVar[int] = 2


class PioWildcard(PioIoeventfd):
    """The same, and KVM does not look at the length."""

    name: ClassVar[str] = "pio-ioeventfd-wildcard"
    wildcard: ClassVar[bool] = True


class PioDatamatch(PioIoeventfd):
    """The same with one port for all queues of a device; the value written is the queue."""

    name: ClassVar[str] = "pio-ioeventfd-datamatch"
    datamatch: ClassVar[bool] = True


class MmioIoeventfd(Ioeventfd):
    """A store of four bytes, as virtio-mmio's QueueNotify (4.2.2)."""

    name: ClassVar[str] = "mmio-ioeventfd"
    kind: ClassVar[BellKind] = BellKind.MMIO
    width: ClassVar[int] = 4


class MmioWildcard(MmioIoeventfd):
    """The same without a length: some hosts then need not decode the instruction."""

    name: ClassVar[str] = "mmio-ioeventfd-wildcard"
    wildcard: ClassVar[bool] = True


class MmioDatamatch(MmioIoeventfd):
    """The same with one address for all queues of a device; the value stored is the queue."""

    name: ClassVar[str] = "mmio-ioeventfd-datamatch"
    datamatch: ClassVar[bool] = True
