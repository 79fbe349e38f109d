"""A guest that cannot go on: a clear error with its registers, never a hang."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import serve
from paravirt.hostside.machine import GuestFault, GuestStalled, Machine
from paravirt.hostside.machine._faults import unknown
from paravirt.hostside.machine._kvm import lib
from tests.hostside.machine.guests import ends
from tests.hostside.machine.playing import Echo, echo, play

if TYPE_CHECKING:
    from tests.hostside.machine.conftest import Guest

pytestmark = pytest.mark.kvm

NOWHERE = 0xC0000000  # between memory and devices
NO_IDT = """
    lea nothing(%rip), %rax
    lidt (%rax)
    ud2
    .balign 8
nothing:
    .quad 0, 0
"""
NO_GATES = """
    mov $0x9000, %edi       /* the interrupt table, which any payload may write to */
    mov $0x1000 / 8, %ecx
    xor %eax, %eax
    rep stosq
    ud2
"""


async def fault(guest: Guest, source: str, ring: int, stall: float | None = None) -> GuestFault:
    """Run a guest that does not go well and return what is raised."""
    async with Machine(ring=ring) as machine:
        machine.load(guest(source))
        with pytest.raises(GuestFault) as caught:
            await machine.run(stall=stall)
    return caught.value


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("ud2", "invalid opcode"),
        ("xor %ecx, %ecx\n div %ecx", "division error"),
        ("mov $0x4000, %eax\n mov %eax, %ds", "general protection fault"),
    ],
    ids=["ud", "de", "gp"],
)
async def test_fault_is_named_with_its_place(
    guest: Guest, ring: int, source: str, said: str
) -> None:
    error = await fault(guest, "mov $0x7777, %ebx\n" + source, ring)

    assert said in str(error)
    assert error.registers is not None
    assert error.registers.values["rbx"] == 0x7777
    assert lib.PV_PAYLOAD <= error.registers.values["rip"] < lib.PV_PAYLOAD + 64
    assert "rbx=0x7777" in str(error)


@pytest.mark.parametrize(
    ("source", "way"),
    [("movl $1, (%rdx)", "write to"), ("mov (%rdx), %eax", "read of"), ("jmp *%rdx", "jump to")],
    ids=["write", "read", "jump"],
)
async def test_unmapped_memory_is_named(guest: Guest, ring: int, source: str, way: str) -> None:
    error = await fault(guest, f"mov ${NOWHERE}, %edx\n{source}", ring)

    assert f"page fault (#PF), the {way}" in str(error)
    assert f"{NOWHERE:#x}" in str(error)


async def test_stack_that_is_gone_is_a_fault_in_ring_3(guest: Guest) -> None:
    """The ring-0 code has a stack of its own."""
    error = await fault(guest, f"mov ${NOWHERE}, %esp\n push %rax", ring=3)

    assert "page fault" in str(error)


@pytest.mark.parametrize(
    ("source", "ring"), [(NO_IDT, 0), (NO_GATES, 0), (NO_GATES, 3)], ids=["idt", "ring0", "ring3"]
)
async def test_triple_fault_is_told_as_one(guest: Guest, source: str, ring: int) -> None:
    error = await fault(guest, "mov $0x7777, %ebx\n" + source, ring)

    assert "triple fault" in str(error)
    assert error.registers is not None
    assert error.registers.values["rbx"] == 0x7777


@pytest.mark.parametrize("instruction", ["vmcall", "vmmcall"])
async def test_hypercall_that_never_comes_back_is_ended_by_the_alarm(
    guest: Guest, instruction: str
) -> None:
    """There are hosts that hang in it; on others the guest goes on, into a loop."""
    source = f"mov $0x7777, %ebx\n xor %eax, %eax\n {instruction}\n 1: jmp 1b"
    async with Machine(ring=0) as machine:
        machine.load(guest(source))
        with pytest.raises(GuestStalled, match="runs on without an exit") as caught:
            await machine.run(stall=0.2)

        assert caught.value.registers is not None
        assert caught.value.registers.values["rbx"] == 0x7777
        assert lib.PV_PAYLOAD <= caught.value.registers.values["rip"] < lib.PV_PAYLOAD + 64
        machine.load(guest(ends(5)))
        assert await machine.run() == 5, "the machine is of use"


async def test_hypercall_that_never_comes_back_is_ended_by_cancellation(guest: Guest) -> None:
    async with Machine(ring=0) as machine:
        machine.load(guest("vmcall\n 1: jmp 1b"))
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            nursery.cancel_scope.cancel()
        machine.load(guest(ends(5)))

        assert await machine.run() == 5


@pytest.mark.parametrize(
    ("reason", "detail", "said"),
    [
        (17, 1, "cannot emulate the instruction at 0x200000: 0f 0b"),
        (17, 2, "for reason 17"),
        (9, 0x80000021, "refused to enter the guest, reason 0x80000021"),
        (99, 0, "for reason 99"),
    ],
)
async def test_what_kvm_says_is_passed_on(
    guest: Guest, reason: int, detail: int, said: str
) -> None:
    async with Machine() as machine:
        machine.load(guest("ud2"))
        vcpu = machine.vcpus[0]
        vcpu.exit.data, vcpu.exit.address = reason, detail

        error = unknown(vcpu, machine.memory)

    assert said in str(error)
    assert error.registers is not None


async def test_local_interrupt_controller_is_not_for_ring_3(guest: Guest) -> None:
    error = await fault(guest, "mov $0xfee000b0, %edx\n movl $0, (%rdx)", ring=3)

    assert "page fault" in str(error)


async def test_place_that_is_no_memory_although_mapped_is_named(guest: Guest) -> None:
    """A ring-0 guest maps what it likes: here 0xc0000000, by the page directory of that GiB."""
    source = f"""
        mov $0x7000, %ebx
        mov ${NOWHERE | 0x83}, %eax
        mov %rax, (%rbx)
        mov ${NOWHERE}, %edx
        invlpg (%rdx)
        movl $1, (%rdx)
    """
    error = await fault(guest, source, ring=0)

    assert f"wrote to {NOWHERE:#x}, where there is neither memory nor a device" in str(error)


async def test_record_of_a_fault_is_not_believed(guest: Guest, ring: int) -> None:
    """The guest itself reports a fault, with a record outside of memory."""
    error = await fault(guest, "mov $FAULT, %edx\n movq $-64, (%rdx)", ring)

    assert "outside of memory" in str(error)


async def test_guest_that_sleeps_for_ever_is_ended(guest: Guest, ring: int) -> None:
    source = "mov 56(%rdi), %rdi\n 1: sti\n hlt\n jmp 1b" if ring == 0 else "xor %edi, %edi\n hlt"
    async with Machine(ring=ring) as machine:
        machine.load(guest(source))
        with pytest.raises(GuestStalled, match="sleeps and nothing wakes it"):
            await machine.run(stall=0.2)


@pytest.mark.parametrize("way", ["mov %eax, (%rdx)", "mov (%rdx), %rcx"], ids=["write", "read"])
async def test_access_that_ended_a_run_is_not_finished_in_the_next(guest: Guest, way: str) -> None:
    """KVM would take the next payload's registers for its own, and go on behind the old access."""
    source = f"mov $0x7000, %ebx\n mov ${NOWHERE | 0x83}, %eax\n mov %rax, (%rbx)\n"
    async with Machine(ring=0) as machine:
        machine.load(guest(f"{source} mov ${NOWHERE}, %edx\n invlpg (%rdx)\n {way}"))
        with pytest.raises(GuestFault, match="neither memory nor a device"):
            await machine.run()
        machine.load(guest("mov $0x11, %ecx\n cmp $0x11, %ecx\n je 1f\n ud2\n 1:" + ends(5)))
        rip = machine.vcpus[0].registers().values["rip"]

        assert rip == lib.PV_PAYLOAD
        assert await machine.run() == 5


@pytest.mark.parametrize("source", ["ud2", NO_IDT], ids=["fault", "triple"])
async def test_machine_is_of_use_after_a_fault(guest: Guest, source: str) -> None:
    async with Machine(ring=0) as machine:
        machine.load(guest(source))
        with pytest.raises(GuestFault):
            await machine.run()
        machine.load(guest(ends(5)))

        assert await machine.run() == 5


async def test_invalid_opcode_goes_to_the_handler_that_ring_0_named(guest: Guest) -> None:
    """As a payload does that tries the other vendor's hypercall."""
    source = """
        lea mend(%rip), %rax
        mov %rax, 2256(%rdi)    /* undefined_handler */
        ud2
    """
    source += ends(9) + "mend:\n addq $2, (%rsp)\n iretq"
    async with Machine(ring=0) as machine:
        machine.load(guest(source))

        assert await machine.run() == 9


async def test_next_payload_finds_nothing_of_what_the_last_has_broken(guest: Guest) -> None:
    """A guest may write where its tables and its ring-0 code are; that is its own affair."""
    source = """
        mov $0x1000, %edi       /* all up to the stacks */
        mov $0xff000 / 8, %ecx
        xor %eax, %eax
        rep stosq
        ud2
    """
    async with Machine(ring=3) as machine:
        link = machine.plug(Echo())
        machine.load(guest(source))
        with pytest.raises(GuestFault):
            await machine.run()

        async with trio.open_nursery() as nursery:
            await nursery.start(serve, Echo(), link)
            assert (await play(machine, echo(20, depth=4))).ok
            nursery.cancel_scope.cancel()
