"""One virtual CPU: its registers, and the thread that spends its life in KVM_RUN."""

from __future__ import annotations

import mmap
import os
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from . import _layout
from ._cpuid import CpuidLeaf
from ._errors import Registers
from ._ioctl import ioctl
from ._kvm import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ()  # of use to this room only

# Intel SDM volume 3, 2.5 and 2.2.1: protected mode with caches, paging, long mode.
_CR0: Final = 0x80050033  # PG AM WP NE ET MP PE
_CR4_PAE: Final = 1 << 5
_EFER_LONG: Final = 0x500  # LMA LME
_RFLAGS: Final = 0x202  # IF, and the bit that is always set
_CODE, _DATA, _TASK = 11, 3, 11
_APIC_SPURIOUS: Final = 0xF0
_APIC_ENABLED: Final = 0x1FF
_CPUID_ROOM: Final = 256  # entries; KVM fills about 60
_LEAVES, _HYPERVISOR_LEAVES = 0xFFFFFF00, 0x40000000


class Vcpu:
    """A vCPU of a VM. One thread at a time runs it; the others may `stop` it."""

    def __init__(self, vm_fd: int, kvm_fd: int, index: int, machine: Any) -> None:
        self.index = index
        self._fd = ioctl(vm_fd, "KVM_CREATE_VCPU", index)
        try:
            size = ioctl(kvm_fd, "KVM_GET_VCPU_MMAP_SIZE")
            self._map = mmap.mmap(self._fd, size)
        except BaseException:
            os.close(self._fd)
            raise
        self._run = ffi.from_buffer("struct kvm_run *", self._map, require_writable=True)
        self._machine = machine  # which must live as long
        self._chores: deque[Callable[[], None]] = deque()
        self._c = ffi.new("struct pv_vcpu *")
        self._c.machine, self._c.run, self._c.fd = machine, self._run, self._fd

    cpuid: tuple[CpuidLeaf, ...] = ()
    """What it tells the guest of the CPU."""
    vendor = b""
    """What it says of the maker, in twelve letters."""

    @property
    def fd(self) -> int:
        """The descriptor, for ioctls."""
        return self._fd

    @property
    def entries(self) -> int:
        """How often the guest was entered; stands still while it runs on."""
        count: int = self._c.entries
        return count

    @property
    def exit(self) -> Any:
        """What the last `enter` returned about: address, width, write, data."""
        return self._c

    def enter(self) -> int:
        """Run the guest, without the interpreter lock; returns one of the core's PV_LEFT_*."""
        rc: int = lib.pv_vcpu_enter(self._c)
        if rc < 0:
            raise OSError(-rc, f"KVM_RUN of vCPU {self.index}: {os.strerror(-rc)}")
        return rc

    def stop(self) -> None:
        """Make `enter` return soon, and each later one at once; from any thread."""
        lib.pv_vcpu_stop(self._c)

    def post(self, chore: Callable[[], None]) -> None:
        """Have something done to the vCPU by its own thread, before that enters the guest again.

        KVM makes everybody else wait until the vCPU comes out by itself.
        """
        self._chores.append(chore)
        self.stop()

    def do_chores(self) -> None:
        """Do what was posted; for the thread of the vCPU."""
        while self._chores:
            self._chores.popleft()()

    def settle(self) -> None:
        """Have KVM complete the access that the vCPU came out with; it must not run.

        KVM does so at the next entry, and then sets registers: by then they would be others.
        """
        if self.entries:
            self.stop()
            self.enter()

    def allow(self) -> None:
        """Let `enter` run the guest again."""
        lib.pv_vcpu_allow(self._c)

    def close(self) -> None:
        """Give the vCPU back; it must not run. Idempotent."""
        if self._fd >= 0:
            ffi.release(self._run)
            self._map.close()
            os.close(self._fd)
            self._fd = -1

    # Registers.

    def reset(self, *, entry: int, ring: int, boot: int) -> None:
        """Put the vCPU before the payload's first instruction, in 64-bit mode."""
        self.settle()
        ioctl(self._fd, "KVM_SET_SREGS", self._special(ring))
        regs = ffi.new("struct kvm_regs *")
        regs.rip, regs.rflags = entry, _RFLAGS
        regs.rsp = _layout.stack(self.index)
        regs.rdi, regs.rsi = boot, self.index
        ioctl(self._fd, "KVM_SET_REGS", regs)
        state = ffi.new("struct kvm_mp_state *", (lib.KVM_MP_STATE_RUNNABLE,))
        ioctl(self._fd, "KVM_SET_MP_STATE", state)

    def _special(self, ring: int) -> Any:
        sregs = ffi.new("struct kvm_sregs *")
        ioctl(self._fd, "KVM_GET_SREGS", sregs)
        sregs.cr0, sregs.cr3, sregs.cr4 = _CR0, lib.PV_PAGE_TABLES, _CR4_PAE
        sregs.efer = _EFER_LONG
        code, data = (lib.PV_CODE_3, lib.PV_DATA_3) if ring else (lib.PV_CODE_0, lib.PV_DATA_0)
        _segment(sregs.cs, code, _CODE, ring, long=True)
        for name in ("ds", "es", "fs", "gs", "ss"):
            _segment(getattr(sregs, name), data, _DATA, ring)
        task = sregs.tr
        task.base, task.limit = _layout.task_state(self.index), _layout.TSS_LIMIT
        task.selector = lib.PV_TASK + 16 * self.index
        task.type, task.present, task.s, task.g, task.unusable = _TASK, 1, 0, 0, 0
        sregs.gdt.base, sregs.gdt.limit = lib.PV_GDT, _layout.GDT_LIMIT
        sregs.idt.base, sregs.idt.limit = lib.PV_IDT, _layout.IDT_LIMIT
        return sregs

    def enable_interrupts(self) -> None:
        """Switch the local interrupt controller on, as a kernel would."""
        apic = ffi.new("struct kvm_lapic_state *")
        ioctl(self._fd, "KVM_GET_LAPIC", apic)
        ffi.buffer(apic.regs)[_APIC_SPURIOUS : _APIC_SPURIOUS + 4] = _APIC_ENABLED.to_bytes(
            4, "little"
        )
        ioctl(self._fd, "KVM_SET_LAPIC", apic)

    def set_cpuid(self, kvm_fd: int, *, hyperv: bool = False, maker: bytes = b"") -> None:
        """Give the vCPU all the features that KVM has, in its own name or in Hyper-V's.

        `maker`, twelve letters, is whose CPU it then claims to be.
        """
        cpuid = _supported(kvm_fd, "KVM_GET_SUPPORTED_CPUID")
        rows = [cpuid.entries[index] for index in range(cpuid.nent)]
        if hyperv:
            theirs = _supported(kvm_fd, "KVM_GET_SUPPORTED_HV_CPUID")
            rows = [row for row in rows if row.function & _LEAVES != _HYPERVISOR_LEAVES]
            rows += [theirs.entries[index] for index in range(theirs.nent)]
        for row in rows:
            if maker and _leaf(row).names_maker:
                row.ebx, row.edx, row.ecx = struct.unpack("<III", maker)
        ioctl(self._fd, "KVM_SET_CPUID2", ffi.new("struct kvm_cpuid2 *", [len(rows), 0, rows]))
        self.cpuid = tuple(_leaf(row) for row in rows)
        leaf = next(row for row in self.cpuid if row.function == 0)
        name = (leaf.ebx, leaf.edx, leaf.ecx)
        self.vendor = b"".join(part.to_bytes(4, "little") for part in name)

    def write_msr(self, index: int, value: int) -> None:
        """Write a model-specific register. Raises OSError if KVM refuses it."""
        msrs = ffi.new("struct kvm_msrs *", [1, 0, [(index, 0, value)]])
        if ioctl(self._fd, "KVM_SET_MSRS", msrs) != 1:
            raise OSError(f"KVM has no model-specific register {index:#x}")

    def read_msr(self, index: int) -> int:
        """Read a model-specific register. Raises OSError if KVM has none of that number."""
        msrs = ffi.new("struct kvm_msrs *", [1, 0, [(index, 0, 0)]])
        if ioctl(self._fd, "KVM_GET_MSRS", msrs) != 1:
            raise OSError(f"KVM has no model-specific register {index:#x}")
        value: int = msrs.entries[0].data
        return value

    def registers(self) -> Registers:
        """Read the registers; the vCPU must not run."""
        regs, sregs = ffi.new("struct kvm_regs *"), ffi.new("struct kvm_sregs *")
        ioctl(self._fd, "KVM_GET_REGS", regs)
        ioctl(self._fd, "KVM_GET_SREGS", sregs)
        names = [name for name, _ in ffi.typeof("struct kvm_regs").fields]
        values: dict[str, int] = {"rip": regs.rip, **{n: getattr(regs, n) for n in names}}
        values |= {"cs": sregs.cs.selector, "cr2": sregs.cr2, "cr3": sregs.cr3}
        return Registers(self.index, values)

    def halted(self) -> bool:
        """Say whether the vCPU sleeps until an interrupt; it must not run."""
        state = ffi.new("struct kvm_mp_state *")
        ioctl(self._fd, "KVM_GET_MP_STATE", state)
        halted: bool = state.mp_state == lib.KVM_MP_STATE_HALTED
        return halted


def _supported(kvm_fd: int, request: str) -> Any:
    cpuid = ffi.new("struct kvm_cpuid2 *", [_CPUID_ROOM, 0, _CPUID_ROOM])
    ioctl(kvm_fd, request, cpuid)
    return cpuid


def _leaf(row: Any) -> CpuidLeaf:
    return CpuidLeaf(row.function, row.index, row.eax, row.ebx, row.ecx, row.edx)


def _segment(segment: Any, selector: int, kind: int, ring: int, *, long: bool = False) -> None:
    segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, selector
    segment.type, segment.dpl, segment.s, segment.present, segment.g = kind, ring, 1, 1, 1
    segment.l, segment.db, segment.unusable = long, not long, 0
