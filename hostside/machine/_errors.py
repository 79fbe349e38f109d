"""What can go wrong with a machine: the host's fault, or the guest's."""

from __future__ import annotations

import msgspec


class KvmUnavailable(OSError):
    """The host has no KVM that a machine can use; the text is one line, with what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


class Registers(msgspec.Struct, frozen=True):
    """The registers of one vCPU when it was stopped."""

    vcpu: int
    values: dict[str, int]
    """By name: `rip`, `rsp`, `rax`, ..., and `cr2`, the address of the last page fault."""

    def __str__(self) -> str:
        rows = [f"{name}={value:#x}" for name, value in self.values.items()]
        return f"vCPU {self.vcpu}: {' '.join(rows)}"


class MachineError(Exception):
    """A run ended in a way that neither the guest nor you asked for."""

    registers: Registers | None
    """Of the vCPU that it happened to, if it happened to one."""

    def __init__(self, text: str, registers: Registers | None = None) -> None:
        self.registers = registers
        super().__init__(text if registers is None else f"{text}\n{registers}")


class GuestFault(MachineError):
    """The guest did what it cannot go on from: a fault, or an access to memory that is none."""


class GuestStalled(MachineError):
    """A vCPU did not leave the guest for longer than the `stall` that was asked for."""
