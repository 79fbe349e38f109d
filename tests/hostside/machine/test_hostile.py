"""A guest that lies and storms: the device survives, others go on, the cause is counted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from msgspec.structs import replace

from paravirt.doorbells import Polling
from paravirt.doorbells.kvm import (
    GUEST_KINDS,
    BellKind,
    MmioDatamatch,
    MmioExit,
    PioDatamatch,
    PioExit,
    Vmport,
)
from paravirt.guestside import payload
from paravirt.guestside.payload import Program, Task
from paravirt.hostside.machine import Machine
from paravirt.transport.mmio import Refusal
from tests.hostside.machine.guests import build_c, ends
from tests.hostside.machine.playing import Echo, echo, echoing, play

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.doorbells import Doorbell
    from paravirt.doorbells.kvm import GuestBell, GuestKick
    from tests.hostside.machine.conftest import Guest

pytestmark = pytest.mark.kvm

HOSTILE = Path(__file__).with_name("hostile.c")
BY_WRITE = [kind for kind in GUEST_KINDS if not kind.name.startswith("hypercall")]
BY_VALUE = (PioDatamatch, MmioDatamatch, Vmport)


@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("kick", [MmioExit, Polling], ids=lambda kind: kind.name)
async def test_ring_that_is_rewritten_while_it_is_read_breaks_alone(
    tmp_path: Path, seed: int, vcpus: int, kick: type[Doorbell]
) -> None:
    async with Machine(vcpus=vcpus) as machine, echoing(machine, doorbell=kick) as link:
        machine.load(build_c(tmp_path, HOSTILE))
        machine.arguments(5000, seed & 0xFFFFFFFF)
        assert await machine.run() == 0
        ring = link.ring(0)
        assert ring is not None
        while ring.statistics().broken is None:
            await trio.lowlevel.checkpoint()

        assert ring.statistics().rejected
        assert (await play(machine, echo(50))).ok, "it works again after a reset"


async def test_stray_kicks_and_ports_are_counted(guest: Guest, ring: int) -> None:
    """Kicks of queues that do not exist, by store and by OUT; a port that nobody has reads ones."""
    source = """
        mov $BELL_PAGE + 0x800, %ebx
        movl $1, (%rbx)
        mov $0xd01f0000, %ebx       /* of a device that does not exist */
        movl $1, (%rbx)
        mov (%rbx), %eax
        mov $BELL_PORT + 0x3c, %edx
        out %ax, %dx
        in %dx, %ax
        cmp $0xffff, %ax
        je 1f
        ud2
    1:
    """
    async with Machine(ring=ring) as machine:
        machine.plug(Echo(), doorbell=PioExit)
        machine.load(guest(source + ends(0)))

        assert await machine.run() == 0
        assert machine.statistics().stray == 5


async def test_broken_rules_of_the_register_block_are_counted(guest: Guest, ring: int) -> None:
    """4.2.2: each has no effect and is counted by its cause."""
    source = """
        mov $BLOCK, %ebx
        movl $1, 0x18(%rbx)         /* unknown */
        movb $1, 0x70(%rbx)         /* one byte */
        mov 0x71(%rbx), %eax        /* not aligned */
        movl $7, 0x4(%rbx)          /* the version */
        mov 0x30(%rbx), %eax        /* the queue selector */
        movl $4, 0x70(%rbx)         /* DRIVER_OK before all else */
        movl $99, 0x30(%rbx)
        movl $1, 0x44(%rbx)         /* queue 99 */
        movl $99, 0x50(%rbx)        /* a kick for it */
        movl $1, 0x400(%rbx)        /* behind the configuration */
        mov 0x1000(%rbx), %eax      /* a device that does not exist */
    """
    async with Machine(ring=ring) as machine:
        link = machine.plug(Echo(), doorbell=Polling)
        machine.load(guest(source + ends(0)))

        assert await machine.run() == 0
        assert link.refused == {
            Refusal.UNKNOWN: 1,
            Refusal.WIDTH: 2,
            Refusal.READ_ONLY: 1,
            Refusal.WRITE_ONLY: 1,
            Refusal.NEGOTIATION: 1,
            Refusal.NO_QUEUE: 2,
            Refusal.CONFIG: 1,
        }
        assert machine.statistics().stray == 1


async def test_console_that_nobody_reads_drops_and_counts(guest: Guest) -> None:
    source = """
        mov $70000, %ecx
        mov $CONSOLE, %edx
    1:  movb $'x', (%rdx)
        dec %ecx
        jnz 1b
    """
    async with Machine() as machine:
        machine.load(guest(source + ends(0)))
        assert await machine.run() == 0

        assert machine.console.read() == "x" * 65536
        assert machine.statistics().console_lost == 70000 - 65536


def elsewhere(kick: GuestKick) -> GuestKick:
    """Return the same instruction for a port, an address or a tag that no queue has."""
    step = {BellKind.PIO: 0x40, BellKind.MMIO: 0x200, BellKind.VMPORT: 50 << 16}[kick.kind]
    return replace(kick, address=kick.address + step)


def with_another_value(kick: GuestKick) -> GuestKick:
    """Return the kick of a queue that does not exist, where the value tells queues apart."""
    return replace(kick, value=99)


@pytest.mark.parametrize(
    ("kind", "forge"),
    [*((kind, elsewhere) for kind in BY_WRITE), *((kind, with_another_value) for kind in BY_VALUE)],
    ids=lambda value: str(getattr(value, "name", value.__name__)),
)
async def test_kick_of_a_queue_that_does_not_exist_is_counted_and_not_heard(
    kind: type[GuestBell], forge: Callable[[GuestKick], GuestKick], ring: int
) -> None:
    async with Machine(ring=ring) as machine:
        link = machine.plug(Echo(), doorbell=kind)
        machine.load(payload.path())
        machine.arguments(*Task(program=Program.KICK, count=3).arguments())
        machine.boot.put_bell(0, forge(machine.boot.bell(0)))

        assert await machine.run() == 0
        assert machine.statistics().stray == 3
        assert not any(bell.wait_blocking(0) for bell in link.kicks)
