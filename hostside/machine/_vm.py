"""The KVM virtual machine: memory slots, interrupts, the vCPUs' common ground."""

from __future__ import annotations

import os
import platform
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from paravirt.doorbells.kvm import Vendor

from ._host import open_kvm
from ._ioctl import ioctl
from ._kvm import ffi, lib
from ._vcpu import Vcpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.transport import Region

    from .text import Slot

__all__ = ()  # of use to this room only

_TSS_ADDR: Final = 0xFFFBD000
"""Three pages that Intel's KVM wants for itself, where QEMU puts them too."""
_FIRST_GSI: Final = 24
"""Those before are the pins of the interrupt controller."""
_MSI: Final = 0xFEE00000
"""Where message-signalled interrupts are written; bits 12 to 19 choose the CPU."""
_ROUTING: Final = struct.Struct("<II")  # struct kvm_irq_routing: nr, flags; routes follow
_ROUTE: Final = struct.Struct("<IIIIIII20x")  # ..._entry: gsi, type, flags, pad; address, data
_CAP_DISABLE_QUIRKS2: Final = 213  # linux/kvm.h and asm/kvm.h of Linux 5.19; headers may be older
_QUIRK_FIX_HYPERCALL_INSN: Final = 1 << 5
_LIKE_AMD: Final = (b"AuthenticAMD", b"HygonGenuine")


class Vm:
    """A virtual machine, and the descriptors that belong to it."""

    def __init__(self) -> None:
        self.fd = self._event = -1
        self.architecture = platform.machine()
        """The guest's CPU, which is the host's."""
        self._pins: list[object] = []
        self._slots = 0
        self._routing: list[tuple[int, int]] = []
        self.vcpus: list[Vcpu] = []
        self.c: Any = ffi.new("struct pv_machine *")
        """The core's `struct pv_machine *`."""
        self._kvm = open_kvm()
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        if lib.pv_kick_signal() < 0:
            raise RuntimeError("all real-time signals are taken: the vCPUs need one")
        lib.pv_machine_init(self.c)
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.c.console_event = self._event
        self.fd = ioctl(self._kvm, "KVM_CREATE_VM", 0)
        ioctl(self.fd, "KVM_SET_TSS_ADDR", _TSS_ADDR)
        ioctl(self.fd, "KVM_CREATE_IRQCHIP")

    @property
    def kvm_fd(self) -> int:
        """The descriptor of KVM itself."""
        return self._kvm

    @property
    def console_event(self) -> int:
        """An eventfd that is written when the guest printed a line."""
        return self._event

    def clear_console_event(self) -> None:
        """Forget what was printed so far, before it is read."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def ring_console_event(self) -> None:
        """Wake who waits for a line."""
        os.eventfd_write(self._event, 1)

    def vendor(self) -> Vendor:
        """Say whose hypercall instruction the guest's CPU has, by its CPUID leaf 0."""
        name = self.vcpus[0].vendor
        return Vendor.AMD if name in _LIKE_AMD else Vendor.INTEL

    def ask(self, capability: str) -> int:
        """Return what this machine's KVM answers about a capability."""
        return ioctl(self.fd, "KVM_CHECK_EXTENSION", getattr(lib, capability))

    def set_memory(self, region: Region, slots: Sequence[Slot]) -> None:
        """Show a region to the guest, slot by slot, in place of what was shown; no vCPU may run.

        A store to a read-only slot leaves the guest.
        """
        mapping = region.mapping()
        host = int(ffi.cast("uintptr_t", mapping.host))
        for number in range(self._slots):
            self._set_slot(number, 0, 0, 0, 0)  # of no size: it goes
        for number, (start, end, readonly) in enumerate(slots):
            flags = lib.KVM_MEM_READONLY if readonly else 0
            self._set_slot(number, flags, region.addr + start, end - start, host + start)
            self._slots = number + 1
        self._pins[:] = [mapping]

    def _set_slot(self, *row: int) -> None:
        argument = ffi.new("struct kvm_userspace_memory_region *", row)
        ioctl(self.fd, "KVM_SET_USER_MEMORY_REGION", argument)

    def add_vcpu(self) -> Vcpu:
        """Make one more vCPU, in the state of a CPU that was just switched on."""
        vcpu = Vcpu(self.fd, self._kvm, len(self.vcpus), self.c)
        self.vcpus.append(vcpu)
        # From the start, since a vCPU keeps the CPUID with which it ran first, and a doorbell by
        # Hyper-V's hypercall may come later.
        vcpu.set_cpuid(self._kvm, hyperv=self.ask("KVM_CAP_HYPERV_CPUID") > 0)
        vcpu.enable_interrupts()
        return vcpu

    def pretend(self, vendor: Vendor) -> None:
        """Have CPUID name another maker; before the guest first runs."""
        maker = b"AuthenticAMD" if vendor is Vendor.AMD else b"GenuineIntel"
        for vcpu in self.vcpus:
            hyperv = self.ask("KVM_CAP_HYPERV_CPUID") > 0
            vcpu.set_cpuid(self._kvm, hyperv=hyperv, maker=maker)

    def add_interrupt(self, vector: int, vcpu: int = 0) -> int:
        """Return the number of a new interrupt, which comes to a vCPU as a vector."""
        self._routing.append((vector, vcpu))
        table = bytearray(_ROUTING.pack(len(self._routing), 0))
        for index, (data, cpu) in enumerate(self._routing):
            kind, address = lib.KVM_IRQ_ROUTING_MSI, _MSI | cpu << 12
            table += _ROUTE.pack(_FIRST_GSI + index, kind, 0, 0, address, 0, data)
        ioctl(self.fd, "KVM_SET_GSI_ROUTING", ffi.from_buffer(table))
        return _FIRST_GSI + len(self._routing) - 1

    def keep_hypercalls(self) -> None:
        """Have KVM leave the other vendor's hypercall instruction alone: it is #UD then.

        By default KVM rewrites it in the guest's text (KVM_X86_QUIRK_FIX_HYPERCALL_INSN). Raises
        OSError where KVM cannot be told so (before Linux 5.19).
        """
        argument = ffi.new("struct kvm_enable_cap *")
        argument.cap = _CAP_DISABLE_QUIRKS2
        argument.args[0] = _QUIRK_FIX_HYPERCALL_INSN
        ioctl(self.fd, "KVM_ENABLE_CAP", argument)

    def write_msr(self, index: int, value: int) -> None:
        """Write a model-specific register of the first vCPU before that enters the guest again."""
        first = self.vcpus[0]
        first.post(partial(first.write_msr, index, value))

    def set_irqfd(self, fd: int, gsi: int, *, on: bool) -> None:
        """Make an eventfd raise an interrupt, or no more."""
        flags = 0 if on else lib.KVM_IRQFD_FLAG_DEASSIGN
        ioctl(
            self.fd,
            "KVM_IRQFD",
            ffi.new("struct kvm_irqfd *", {"fd": fd, "gsi": gsi, "flags": flags}),
        )

    def close(self) -> None:
        """Give everything back; no vCPU may run. Idempotent."""
        for vcpu in self.vcpus:
            vcpu.close()
        self.vcpus.clear()
        for fd in (self.fd, self._kvm, self._event):
            if fd >= 0:
                os.close(fd)
        self.fd = self._kvm = self._event = -1
        self._pins.clear()
