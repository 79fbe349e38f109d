"""A virtual machine of one page: one instruction, in 32-bit protected mode without paging."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ()

# linux/kvm.h
_CREATE_VM: Final = 0xAE01
_GET_VCPU_MMAP_SIZE: Final = 0xAE04
_CREATE_VCPU: Final = 0xAE41
_SET_TSS_ADDR: Final = 0xAE47
_CREATE_IRQCHIP: Final = 0xAE60
_RUN: Final = 0xAE80
_SET_USER_MEMORY_REGION: Final = 0x4020AE46
_GET_REGS: Final = 0x8090AE81
_SET_REGS: Final = 0x4090AE82
_GET_SREGS: Final = 0x8138AE83
_SET_SREGS: Final = 0x4138AE84
_SET_MSRS: Final = 0x4008AE89
_SET_CPUID2: Final = 0x4008AE90
_GET_SUPPORTED_CPUID: Final = 0xC008AE05
_GET_SUPPORTED_HV_CPUID: Final = 0xC008AEC1

# Intel's CPUs without "unrestricted guest" need three pages of ours for modes without paging.
_TSS_ADDRESS: Final = 0x7FFB_D000
_MEMORY_REGION: Final = struct.Struct("=IIQQQ")  # slot, flags, address, size, user address
_REGISTERS: Final = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp")
_REGS: Final = struct.Struct("=18Q")  # those, r8 to r15, rip, rflags
_RFLAGS: Final = 0x2  # bit 1 is always set
_SEGMENT: Final = struct.Struct("=QIHBBBBBBBBBB")  # base limit selector type present dpl db s l g..
_CODE: Final = _SEGMENT.pack(0, 0xFFFFFFFF, 8, 11, 1, 0, 1, 1, 0, 1, 0, 0, 0)
_DATA: Final = _SEGMENT.pack(0, 0xFFFFFFFF, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
_CR0_AT: Final = 8 * _SEGMENT.size + 2 * 16  # behind eight segments and two tables
_PROTECTED_MODE: Final = 1

_CPUID: Final = struct.Struct("=10I")  # function index flags eax ebx ecx edx padding
_CPUIDS: Final = 256  # KVM gives 30 to 60

# struct kvm_run
_REASON: Final = struct.Struct("=8xI")
_REASON_OF: Final = {
    2: "IO",
    3: "HYPERCALL",
    5: "HLT",
    6: "MMIO",
    8: "SHUTDOWN",
    9: "FAIL_ENTRY",
    17: "INTERNAL_ERROR",
    27: "HYPERV",
    34: "XEN",
}
_IO: Final = struct.Struct("=32xBBH")  # direction, size, port
_MMIO: Final = struct.Struct("=32xQQIB")  # address, data, length, is write
_HYPERCALL: Final = struct.Struct("=32xQQQ")  # number, two arguments

DONE_PORT: Final = 0x10
_OUT_DONE: Final = bytes((0xE6, DONE_PORT))  # out %al, $DONE_PORT


class Exit(NamedTuple):
    """Why the guest came back to user space."""

    reason: str
    port: int = 0
    address: int = 0
    value: int = 0
    """What was stored, or a hypercall's number."""

    @property
    def done(self) -> bool:
        """The guest has gone on behind its one instruction."""
        return self.reason == "IO" and self.port == DONE_PORT


class PageMachine:
    """A virtual machine whose guest executes one instruction in ring 0 with chosen registers.

    The last twelve bytes of the page are the guest's data, at `DATA`. Raises OSError where KVM
    refuses a part of it. The process is killed by SIGPROF if the instruction takes `limit` seconds
    of its CPU time; 0: it may take for ever.
    """

    DATA: Final = 0xFF4

    def __init__(self, kvm: int, *, hyperv: bool = False, limit: float = 0) -> None:
        self._limit = limit
        self.fd = fcntl.ioctl(kvm, _CREATE_VM, 0)
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        fcntl.ioctl(self.fd, _SET_TSS_ADDR, _TSS_ADDRESS)
        if hyperv:  # its interrupt controller is a part of KVM's
            fcntl.ioctl(self.fd, _CREATE_IRQCHIP, 0)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        region = _MEMORY_REGION.pack(0, 0, 0, mmap.PAGESIZE, address)
        fcntl.ioctl(self.fd, _SET_USER_MEMORY_REGION, region)
        self._vcpu = fcntl.ioctl(self.fd, _CREATE_VCPU, 0)
        self._run = mmap.mmap(self._vcpu, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0))
        self._amd = self._give_cpuid(kvm, hyperv=hyperv)
        self._enter_protected_mode()

    def _give_cpuid(self, kvm: int, *, hyperv: bool) -> bool:
        """Give the vCPU the host's features; tells whether its hypercall is AMD's."""
        leaves = _leaves(kvm, _GET_SUPPORTED_CPUID)
        if hyperv:  # KVM's own leaves are where Hyper-V's must be
            leaves = [leaf for leaf in leaves if leaf[0] & 0xFFFFFF00 != 0x40000000]
            leaves += _leaves(kvm, _GET_SUPPORTED_HV_CPUID)
        data = b"".join(_CPUID.pack(*leaf) for leaf in leaves)
        # A bytearray: fcntl takes no more than 1024 bytes of anything else.
        fcntl.ioctl(self._vcpu, _SET_CPUID2, bytearray(struct.pack("=II", len(leaves), 0) + data))
        (vendor,) = [leaf for leaf in leaves if leaf[0] == 0]
        name = struct.pack("=III", vendor[4], vendor[6], vendor[5])
        return name in (b"AuthenticAMD", b"HygonGenuine")

    def _enter_protected_mode(self) -> None:
        state = bytearray(_SEGMENT.size * 13)  # struct kvm_sregs has as many bytes
        fcntl.ioctl(self._vcpu, _GET_SREGS, state)
        state[: 6 * _SEGMENT.size] = _CODE + 5 * _DATA
        state[_CR0_AT : _CR0_AT + 8] = struct.pack(
            "=Q", struct.unpack_from("=Q", state, _CR0_AT)[0] | _PROTECTED_MODE
        )
        fcntl.ioctl(self._vcpu, _SET_SREGS, state)

    def write_msr(self, index: int, value: int) -> None:
        """Write a model-specific register."""
        asked = bytearray(struct.pack("=IIIIQ", 1, 0, index, 0, value))
        if fcntl.ioctl(self._vcpu, _SET_MSRS, asked) != 1:
            raise OSError(f"KVM does not take the value of the register {index:#x}")

    @property
    def hypercall(self) -> bytes:
        """The instruction of the host's vendor: vmmcall or vmcall."""
        return b"\x0f\x01\xd9" if self._amd else b"\x0f\x01\xc1"

    def execute(self, instruction: bytes, registers: Mapping[str, int], data: int = 0) -> Exit:
        """Execute one instruction; returns where the guest came out, at its end if all is well."""
        code = instruction + _OUT_DONE
        self._page[: len(code)] = code
        self._page[self.DATA : self.DATA + 4] = struct.pack("=I", data)
        values = [registers.get(name, 0) for name in _REGISTERS]
        fcntl.ioctl(self._vcpu, _SET_REGS, _REGS.pack(*values, *[0] * 9, _RFLAGS))
        return self.resume()

    def resume(self) -> Exit:
        """Go on after an exit."""
        signal.setitimer(signal.ITIMER_PROF, self._limit)
        try:
            fcntl.ioctl(self._vcpu, _RUN, 0)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        (number,) = _REASON.unpack_from(self._run)
        reason = _REASON_OF.get(number, f"number {number}")
        if reason == "IO":
            return Exit(reason, port=_IO.unpack_from(self._run)[2])
        if reason == "MMIO":
            address, value, length, _ = _MMIO.unpack_from(self._run)
            return Exit(reason, address=address, value=value & ((1 << 8 * length) - 1))
        if reason == "HYPERCALL":
            called, address, _ = _HYPERCALL.unpack_from(self._run)
            return Exit(reason, address=address, value=called)
        return Exit(reason)

    def text(self, size: int) -> bytes:
        """Return the first bytes of the guest's instruction as they are now."""
        return self._page[:size]

    @property
    def result(self) -> int:
        """What is in EAX."""
        state = bytearray(_REGS.size)
        fcntl.ioctl(self._vcpu, _GET_REGS, state)
        return int(_REGS.unpack(state)[0]) & 0xFFFFFFFF

    def close(self) -> None:
        """Destroy the machine."""
        self._run.close()
        os.close(self._vcpu)
        os.close(self.fd)


def _leaves(kvm: int, request: int) -> list[tuple[int, ...]]:
    asked = bytearray(struct.pack("=II", _CPUIDS, 0) + bytes(_CPUIDS * _CPUID.size))
    fcntl.ioctl(kvm, request, asked)
    (count,) = struct.unpack_from("=I", asked)
    return [_CPUID.unpack_from(asked, 8 + index * _CPUID.size) for index in range(count)]
