"""Why a guest could not go on, in words."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from paravirt.transport import PeerError

from ._errors import GuestFault, MachineError
from ._kvm import lib

if TYPE_CHECKING:
    from paravirt.transport import Memory

    from ._errors import Registers
    from ._vcpu import Vcpu

__all__ = ()  # of use to this room only

_NAMES: Final = {  # Intel SDM volume 3, table 6-1
    0: "a division error (#DE)",
    3: "a breakpoint (#BP)",
    6: "an invalid opcode (#UD)",
    8: "a double fault (#DF)",
    12: "a stack fault (#SS)",
    13: "a general protection fault (#GP)",
    14: "a page fault (#PF)",
}
_PAGE_FAULT: Final = 14
_WRITE, _FETCH = 2, 16  # bits of its error code (4.7)
_RECORD: Final = struct.Struct("<8Q")  # as core/x86_64/ring0.S pushes it
_EXIT_INTERNAL_ERROR, _EXIT_FAIL_ENTRY = 17, 9  # linux/kvm.h
_EMULATION: Final = 1  # KVM_INTERNAL_ERROR_EMULATION
_INSTRUCTION: Final = 15  # bytes, at most
_HYPERCALLS: Final = (b"\x0f\x01\xc1", b"\x0f\x01\xd9")  # vmcall, vmmcall


def fault(vcpu: Vcpu, memory: Memory) -> GuestFault:
    """Read what a fault stub left on its stack."""
    registers = vcpu.registers()
    try:
        record = _RECORD.unpack(memory.read(vcpu.exit.data, _RECORD.size))
    except PeerError:
        return GuestFault("a fault was reported from outside of memory", registers)
    rax, vector, error, rip, cs, rflags, rsp, _ = record
    saved = {"rip": rip, "rax": rax, "rsp": rsp, "cs": cs, "rflags": rflags}
    registers = replace(registers, values={**registers.values, **saved})
    text = _NAMES.get(vector, f"fault {vector}")
    if vector == _PAGE_FAULT:
        text += f", the {_way(registers, error)} {registers.values['cr2']:#x}"
    else:
        text += f", error code {error:#x}"
    return GuestFault(f"the guest met {text} at {rip:#x}", registers)


def _way(registers: Registers, error: int) -> str:
    """Say what the guest was about; a CPU tells fetches from reads only where NX is on."""
    if error & _WRITE:
        return "write to"
    fetched = error & _FETCH or registers.values["cr2"] == registers.values["rip"]
    return "jump to" if fetched else "read of"


def triple_fault(vcpu: Vcpu) -> GuestFault:
    """Say that not even a fault could be delivered."""
    return GuestFault("the guest met a triple fault and shut down", vcpu.registers())


def outside(vcpu: Vcpu, memory: Memory) -> GuestFault:
    """Name the place that is neither memory nor a device, or is memory that is read-only."""
    address = vcpu.exit.address
    try:
        found = memory.read(address, vcpu.exit.width)
    except PeerError:
        pass
    else:
        # No store has their three bytes: it is KVM's own (KVM_X86_QUIRK_FIX_HYPERCALL_INSN).
        if found in _HYPERCALLS:
            text = f"KVM was to rewrite the other vendor's hypercall instruction at {address:#x}"
        else:
            text = f"the guest wrote to {address:#x}"
        return GuestFault(f"{text}, in its read-only text", vcpu.registers())
    way = "wrote to" if vcpu.exit.write else "read"
    text = f"the guest {way} {address:#x}, where there is neither memory nor a device"
    return GuestFault(text, vcpu.registers())


def unknown(vcpu: Vcpu, memory: Memory) -> MachineError:
    """Say what KVM said."""
    reason, detail = vcpu.exit.data, vcpu.exit.address
    registers = vcpu.registers()
    if reason == _EXIT_INTERNAL_ERROR and detail == _EMULATION:
        rip = registers.values["rip"]
        try:
            code = memory.read(rip, _INSTRUCTION).hex(" ")
        except PeerError:
            code = "outside of memory"
        return MachineError(f"KVM cannot emulate the instruction at {rip:#x}: {code}", registers)
    if reason == _EXIT_FAIL_ENTRY:
        return MachineError(f"the CPU refused to enter the guest, reason {detail:#x}", registers)
    return MachineError(f"KVM left the guest for reason {reason}, {detail:#x}", registers)


def raise_for(left: int, vcpu: Vcpu, memory: Memory) -> None:
    """Raise what an exit that nobody can go on from means."""
    if left == lib.PV_LEFT_FAULT:
        raise fault(vcpu, memory)
    if left == lib.PV_LEFT_SHUTDOWN:
        raise triple_fault(vcpu)
    if left == lib.PV_LEFT_OUTSIDE:
        raise outside(vcpu, memory)
    raise unknown(vcpu, memory)
