"""A run from its first instruction to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside.machine import GuestStalled, Machine
from tests.hostside.machine.guests import ends

if TYPE_CHECKING:
    from tests.hostside.machine.conftest import Guest

pytestmark = pytest.mark.kvm

HELLO = """
    lea text(%rip), %rsi
1:  lodsb
    test %al, %al
    jz 2f
    mov $CONSOLE, %edx
    mov %al, (%rdx)
    jmp 1b
text:
    .asciz "hello\\n"
2:
"""
FOR_EVER = "1: jmp 1b"


async def test_guest_prints_and_ends_with_its_code(guest: Guest, ring: int) -> None:
    async with Machine(ring=ring) as machine:
        machine.load(guest(HELLO + ends(42)))

        assert await machine.run() == 42
        assert machine.console.read() == "hello\n"


async def test_port_of_the_console_prints_too(guest: Guest, ring: int) -> None:
    """OUT in ring 3 needs the zero bit in the I/O bitmap."""
    source = "mov $0x3f8, %dx\n mov $'!', %al\n out %al, %dx\n" + ends(0)
    async with Machine(ring=ring) as machine:
        machine.load(guest(source))

        assert await machine.run() == 0
        assert machine.console.read() == "!"


async def test_guest_finds_boot_page_and_number_in_registers(guest: Guest, ring: int) -> None:
    source = """
        mov 0(%rdi), %eax
        mov $EXIT, %edx
        add %esi, %eax
        mov %eax, (%rdx)
    """
    async with Machine(ring=ring) as machine:
        machine.load(guest(source))

        assert await machine.run() == 0x62767670


async def test_cancelled_run_goes_on_where_it_was(guest: Guest, ring: int) -> None:
    """The guest waits for a number in its boot page, which comes only after the cancellation."""
    source = "1: cmpq $7, 72(%rdi)\n jne 1b\n" + ends(7)
    async with Machine(ring=ring) as machine:
        machine.load(guest(source))
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            nursery.cancel_scope.cancel()
        machine.arguments(7)

        assert await machine.run() == 7


async def test_guest_that_loops_is_ended_with_its_registers(guest: Guest, ring: int) -> None:
    async with Machine(ring=ring) as machine:
        machine.load(guest("mov $0x1234, %ebx\n" + FOR_EVER))
        with pytest.raises(GuestStalled, match="runs on") as caught:
            await machine.run(stall=0.2)

    assert caught.value.registers is not None
    assert caught.value.registers.values["rbx"] == 0x1234


async def test_lines_of_the_console_come_while_the_guest_runs(guest: Guest) -> None:
    async with Machine() as machine:
        machine.load(guest(HELLO + FOR_EVER))
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)

            assert await machine.console.line() == "hello"
            nursery.cancel_scope.cancel()


async def test_waiting_for_a_line_ends_with_the_run(guest: Guest) -> None:
    async with Machine() as machine:
        machine.load(guest(ends(0)))
        await machine.run()
        with pytest.raises(trio.EndOfChannel):
            await machine.console.line()


async def test_second_run_at_a_time_is_refused(guest: Guest) -> None:
    async with Machine() as machine:
        machine.load(guest(FOR_EVER))
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            with pytest.raises(trio.BusyResourceError):
                await machine.run()
            nursery.cancel_scope.cancel()


async def test_run_without_a_payload_is_refused() -> None:
    async with Machine() as machine:
        with pytest.raises(RuntimeError, match="load a payload"):
            await machine.run()


@pytest.mark.parametrize("vcpus", [2, 4])
async def test_every_vcpu_runs_with_a_stack_of_its_own(guest: Guest, vcpus: int) -> None:
    """Each leaves its number on its stack and waits; the first counts what it finds."""
    source = """
        mov %rsi, %rax
        inc %rax
        push %rax
        test %rsi, %rsi
        jnz 3f
    1:  xor %eax, %eax          /* the sum of what is on all stacks */
        mov 72(%rdi), %rcx
        mov %rsp, %rbx
    2:  add (%rbx), %rax
        add $0x10000, %rbx
        dec %rcx
        jnz 2b
        cmp 80(%rdi), %rax
        jne 1b
    """
    async with Machine(vcpus=vcpus) as machine:
        machine.load(guest(source + ends(0) + "3: jmp 3b"))
        machine.arguments(vcpus, vcpus * (vcpus + 1) // 2)

        assert await machine.run() == 0
