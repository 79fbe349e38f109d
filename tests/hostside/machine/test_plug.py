"""Devices of a machine, driven by the payload over real exits and interrupts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import Adaptive, Direct, EventFd, Polling
from paravirt.doorbells.kvm import (
    BellKind,
    DoorbellRefused,
    HyperV,
    MmioDatamatch,
    MmioExit,
    MmioIoeventfd,
    MmioWildcard,
    PioDatamatch,
    PioExit,
    PioIoeventfd,
    PioWildcard,
    Vmport,
)
from paravirt.guestside import payload
from paravirt.guestside.payload import Program, Task
from paravirt.hostside import serve
from paravirt.hostside.machine import Irqfd, Machine
from tests.hostside.machine.playing import Echo, echo, echoing, play

if TYPE_CHECKING:
    from paravirt.doorbells import Doorbell

pytestmark = pytest.mark.kvm

IN_KERNEL = (PioIoeventfd, PioWildcard, PioDatamatch, MmioIoeventfd, MmioWildcard, MmioDatamatch)
BY_EXIT = (PioExit, MmioExit, Vmport, EventFd, Adaptive)


@pytest.mark.parametrize("kind", [*IN_KERNEL, *BY_EXIT, Polling], ids=lambda kind: kind.name)
async def test_payload_is_answered_whatever_the_doorbell(kind: type[Doorbell], ring: int) -> None:
    async with Machine(ring=ring) as machine, echoing(machine, doorbell=kind) as link:
        report = await play(machine, echo(60, depth=4))

        assert report.ok, report
        assert report.figures["requests"] == 60
        assert link.refused == {}
        assert machine.statistics().stray == 0


@pytest.mark.parametrize("kind", [PioIoeventfd, MmioIoeventfd], ids=lambda kind: kind.name)
async def test_kick_by_ioeventfd_never_leaves_for_user_space(kind: type[Doorbell]) -> None:
    async with Machine() as machine, echoing(machine, doorbell=kind):
        assert (await play(machine, echo(50))).ok

        assert machine.statistics().kicks == 0


async def test_data_in_a_notification_is_kept_beside_the_ring() -> None:
    """VMware's backdoor: six registers a kick, of which the latest 64 are kept."""
    async with Machine() as machine, echoing(machine, doorbell=Vmport):
        await play(machine, Task(program=Program.KICK, count=100))
        notes = machine.notes()

        assert len(notes) == 64
        assert {note.kind for note in notes} == {BellKind.VMPORT}
        assert {(note.address, note.rsi) for note in notes} == {(machine.boot.bell(0).address, 0)}


@pytest.mark.parametrize("queues", [1, 2])
async def test_sleeping_guest_is_woken_by_each_answer(ring: int, queues: int) -> None:
    """HLT in ring 0, or in ring 3 through the ring-0 code, ended by an irqfd."""
    async with Machine(ring=ring) as machine, echoing(machine, call_doorbell=Irqfd) as link:
        report = await play(machine, echo(60, interrupt=True, queues=queues))

        assert report.ok, report
        assert link.refused == {}


@pytest.mark.parametrize("asleep", [True, False], ids=["asleep", "running"])
async def test_guest_is_interrupted(asleep: bool, ring: int) -> None:
    """Asleep: by HLT. Running: it looks at the count of interrupts and never leaves by itself."""
    device = Echo()
    async with Machine(ring=ring) as machine, trio.open_nursery() as nursery:
        link = machine.plug(device, call_doorbell=Irqfd)
        await nursery.start(serve, device, link)
        machine.load(payload.path())
        machine.arguments(*Task(program=Program.IDLE, count=3, interrupt=asleep).arguments())
        await nursery.start(machine.run)
        assert await machine.console.line() == "asleep"
        taken = 0
        while link.state.device.status:  # two that come close together wake it once
            link.calls[0].ring()
            while machine.boot.interrupts == taken and link.state.device.status:
                await trio.lowlevel.checkpoint()
            taken = machine.boot.interrupts

        assert "program=idle status=ok" in await machine.console.line()
        assert taken >= 3
        nursery.cancel_scope.cancel()


async def test_two_devices_have_their_own_queues_and_interrupts() -> None:
    """The payload drives the first; the second stays at rest."""
    async with (
        Machine() as machine,
        echoing(machine, call_doorbell=Irqfd),
        echoing(machine, call_doorbell=Irqfd) as second,
    ):
        assert (await play(machine, echo(20, interrupt=True, queues=2))).ok

        assert second.state.device.status == 0
        assert machine.boot.bell(2) != machine.boot.bell(0)


async def test_guest_finds_a_device_that_nobody_serves_any_more_in_need_of_a_reset() -> None:
    async with Machine() as machine:
        link = machine.plug(Echo(), call_doorbell=Polling)
        link.close_device_end()
        report = await play(machine, echo(1, patience=10**8))

        assert report.reason == "needs-reset", report


async def test_server_returns_when_the_machine_is_gone() -> None:
    device = Echo()
    async with trio.open_nursery() as nursery, Machine() as machine:
        link = machine.plug(device)
        await nursery.start(serve, device, link)
        # The nursery ends by itself.


async def test_doorbell_that_no_guest_can_ring_is_refused() -> None:
    async with Machine() as machine:
        with pytest.raises(ValueError, match="cannot ring"):
            machine.plug(Echo(), doorbell=Direct)
        assert machine.links == []


async def test_doorbell_that_needs_ring_0_is_refused_in_ring_3() -> None:
    async with Machine(ring=3) as machine:
        with pytest.raises(DoorbellRefused):
            machine.plug(Echo(), doorbell=HyperV)
        assert machine.plug(Echo()).refused == {}, "nothing of it is left"


async def test_queues_beyond_the_boot_page_are_refused() -> None:
    class Wide(Echo):
        queue_sizes = (16,) * 65

    async with Machine() as machine:
        with pytest.raises(ValueError, match="no room"):
            machine.plug(Wide())


async def test_device_is_not_plugged_into_a_running_machine() -> None:
    async with Machine() as machine, echoing(machine), trio.open_nursery() as nursery:
        machine.load(payload.path())
        machine.arguments(*Task(program=Program.IDLE, count=0, interrupt=True).arguments())
        await nursery.start(machine.run)
        with pytest.raises(trio.BusyResourceError):
            machine.plug(Echo())
        nursery.cancel_scope.cancel()
