"""Leaving a run: all vCPUs are out of the guest, whatever it does, and nobody else is disturbed."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside.machine import Irqfd, Machine
from paravirt.hostside.machine._kvm import lib
from tests.hostside.machine.guests import ends
from tests.hostside.machine.playing import Echo, echoing

if TYPE_CHECKING:
    import random

    from tests.hostside.machine.conftest import Guest

pytestmark = pytest.mark.kvm

LOOPS = "1: jmp 1b"
READS = "mov $BLOCK, %ebx\n 1: mov 0x70(%rbx), %eax\n jmp 1b"
PRINTS = "mov $CONSOLE, %ebx\n 1: movb $'x', (%rbx)\n jmp 1b"
HALTS = "1: xor %edi, %edi\n hlt\n jmp 1b"
WAYS = {"loop": LOOPS, "read": READS, "print": PRINTS, "halt": HALTS}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("vcpus", [1, 3])
async def test_every_vcpu_leaves_whatever_it_does(guest: Guest, way: str, vcpus: int) -> None:
    async with Machine(vcpus=vcpus) as machine, echoing(machine, call_doorbell=Irqfd):
        machine.load(guest(WAYS[way]))
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                await nursery.start(machine.run)
                nursery.cancel_scope.cancel()

            # KVM gives no registers of a vCPU that runs: this would not return.
            rips = [vcpu.registers().values["rip"] for vcpu in machine.vcpus]
            assert all(rips)


async def test_cancellations_lose_and_repeat_no_access(guest: Guest, rng: random.Random) -> None:
    """The access under way is completed before the registers are left alone."""
    source = """
        mov $2000, %ecx
        mov $CONSOLE, %ebx
    1:  movb $'x', (%rbx)
        dec %ecx
        jnz 1b
    """
    async with Machine() as machine:
        machine.load(guest(source + ends(3)))
        code: int | None = None
        while code is None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, nursery.cancel_scope, rng.randrange(20))
                code = await machine.run()
                nursery.cancel_scope.cancel()

        assert code == 3
        assert machine.console.read() == "x" * 2000


async def cancel_after(scope: trio.CancelScope, checkpoints: int) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_cancelled_before_it_began_runs_nothing(guest: Guest) -> None:
    async with Machine() as machine:
        machine.load(guest(PRINTS))
        with trio.CancelScope() as scope:
            scope.cancel()
            await machine.run()

        assert machine.statistics().exits == 0


async def test_signal_that_stops_vcpus_is_not_pythons() -> None:
    """Its handler is in C, so no Python code runs for it and no call of trio's is woken."""
    async with Machine():
        number = lib.pv_kick_signal()

        assert signal.SIGRTMIN < number <= signal.SIGRTMAX
        assert signal.getsignal(number) is signal.SIG_DFL, "Python has not heard of a handler"
        os.kill(os.getpid(), number)  # by default it would end the process


async def test_signal_that_the_program_blocks_stops_vcpus_all_the_same(guest: Guest) -> None:
    """Threads inherit what is blocked; trio makes the one of the vCPU here."""
    async with Machine() as machine:
        machine.load(guest(LOOPS))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {lib.pv_kick_signal()})
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(machine.run)
                nursery.cancel_scope.cancel()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def test_other_signals_do_not_end_a_run(guest: Guest) -> None:
    """KVM_RUN is left for any signal; the vCPU goes back in."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        async with Machine() as machine:
            machine.load(guest("1: cmpq $7, 72(%rdi)\n jne 1b\n" + ends(7)))
            async with trio.open_nursery() as nursery:
                await nursery.start(machine.run)
                for thread in threading.enumerate():
                    if thread.ident is not None:
                        signal.pthread_kill(thread.ident, signal.SIGUSR1)
                machine.arguments(7)

        assert seen
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # drops what a thread has not taken yet
        signal.signal(signal.SIGUSR1, before)


async def test_chore_is_done_by_a_vcpu_that_runs(guest: Guest) -> None:
    """Anyone else would wait in KVM until the guest comes out by itself."""
    done = threading.Event()
    async with Machine() as machine:
        machine.load(guest(LOOPS))
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            machine.vcpus[0].post(done.set)
            while not done.is_set():
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_machine_that_is_left_gives_back_every_descriptor(guest: Guest) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with Machine(vcpus=2) as machine, echoing(machine, call_doorbell=Irqfd):
            machine.load(guest(ends(0)))
            await machine.run()
        async with Machine() as machine:
            machine.plug(Echo())

    assert len(os.listdir("/proc/self/fd")) == before


async def test_machine_is_not_left_while_it_runs(guest: Guest) -> None:
    machine = Machine()
    await machine.__aenter__()
    machine.load(guest(LOOPS))
    async with trio.open_nursery() as nursery:
        await nursery.start(machine.run)
        with pytest.raises(RuntimeError, match="cancel `run` first"):
            await machine.__aexit__(None, None, None)
        nursery.cancel_scope.cancel()
    await machine.__aexit__(None, None, None)
