"""KVM's hypercall instruction: the vendor's own, the other vendor's, and what KVM does to it."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

import pytest

from paravirt.doorbells.kvm import GUEST_KINDS, probe
from paravirt.doorbells.kvm.trial._page import PageMachine

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.hypercall

VMCALL: Final = b"\x0f\x01\xc1"
VMMCALL: Final = b"\x0f\x01\xd9"
KICK_CPU: Final = 5  # KVM_HC_KICK_CPU in linux/kvm_para.h; does nothing for a CPU that is not there
UNKNOWN: Final = 9999
ENOSYS: Final = -1000  # KVM_ENOSYS
KVM_ENABLE_CAP: Final = 0x4068AEA3
DISABLE_QUIRKS2: Final = 213
FIX_HYPERCALL_INSN: Final = 1 << 5


@pytest.fixture
def machine() -> Generator[PageMachine, None, None]:
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    machine = PageMachine(kvm)
    yield machine
    machine.close()
    os.close(kvm)


def other(instruction: bytes) -> bytes:
    return VMMCALL if instruction == VMCALL else VMCALL


def test_every_doorbell_can_be_had_here() -> None:
    assert [row.name for row in probe() if row.available] == [kind.name for kind in GUEST_KINDS]


def test_the_vendors_own_instruction_leaves_the_text_as_it_was(machine: PageMachine) -> None:
    came = machine.execute(machine.hypercall, {"rax": KICK_CPU})

    assert came.done
    assert machine.result == 0
    assert machine.text(3) == machine.hypercall


def test_the_other_vendors_instruction_is_rewritten_in_the_guests_text(
    machine: PageMachine,
) -> None:
    """KVM_X86_QUIRK_FIX_HYPERCALL_INSN, on unless it is disabled."""
    came = machine.execute(other(machine.hypercall), {"rax": KICK_CPU})

    assert came.done
    assert machine.result == 0
    assert machine.text(3) == machine.hypercall


def test_without_the_quirk_it_is_an_invalid_opcode(machine: PageMachine) -> None:
    """There is no handler for it here, so the CPU shuts down."""
    asked = struct.pack("=IIQ24x64x", DISABLE_QUIRKS2, 0, FIX_HYPERCALL_INSN)
    fcntl.ioctl(machine.fd, KVM_ENABLE_CAP, asked)

    came = machine.execute(other(machine.hypercall), {"rax": KICK_CPU})

    assert came.reason == "SHUTDOWN"
    assert machine.text(3) == other(machine.hypercall)


def test_an_unknown_hypercall_is_told_to_the_guest(machine: PageMachine) -> None:
    assert machine.execute(machine.hypercall, {"rax": UNKNOWN}).done
    assert machine.result == ENOSYS & 0xFFFFFFFF
