"""The doorbell of a guest's queue changes under load; the payload checks every answer."""

from __future__ import annotations

import os
from itertools import cycle, islice, product

import pytest
import trio

from paravirt.doorbells import Adaptive, Doorbell, EventFd, Polling
from paravirt.doorbells.kvm import (
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
from paravirt.guestside.payload import PayloadResult, Program, Task
from paravirt.hostside import serve
from paravirt.hostside.machine import Machine
from paravirt.transport import SwapRefused
from tests.tools import missing
from tests.vm.payloads import Echo

pytestmark = pytest.mark.kvm

KINDS: tuple[type[Doorbell], ...] = (
    MmioIoeventfd,
    PioExit,
    MmioExit,
    PioWildcard,
    MmioWildcard,
    PioDatamatch,
    MmioDatamatch,
    Vmport,
    Polling,
    Adaptive,
    EventFd,
    PioIoeventfd,
)
SWAPS = 120  # ten times through the kinds


@pytest.fixture(autouse=True)
def kvm() -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        missing("no /dev/kvm that can be opened here")


@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "interrupt"])
@pytest.mark.parametrize("depth", [1, 64])
async def test_every_request_is_answered_once_across_swaps(interrupt: bool, depth: int) -> None:
    """Live swap, as doorbells/guest/doorbell.h has it; a lost kick at depth 1 would hang."""
    device = Echo()
    task = Task(program=Program.ECHO, count=0, depth=depth, interrupt=interrupt)
    with trio.fail_after(60):
        async with Machine() as machine, trio.open_nursery() as nursery:
            link = machine.plug(device)
            machine.load(payload.path())
            machine.arguments(*task.arguments())
            await nursery.start(serve, device, link)
            async with trio.open_nursery() as running:
                await running.start(machine.run)
                for kind in islice(cycle(KINDS), SWAPS):
                    await link.swap(kind)
                    assert link.kicks[0].name == kind.name
                payload.stop(machine.boot)
            report = payload.parse(machine.console.read())
            nursery.cancel_scope.cancel()
    assert (report.ok, report.reason) == (True, "")
    assert report.figures["requests"] > 0


async def test_any_kind_follows_any_other_and_itself() -> None:
    """Where one matches a value at a shared address KVM takes no second: the old one stays."""
    alone: set[type[Doorbell]] = {PioDatamatch, MmioDatamatch}
    task = Task(program=Program.ECHO, count=0, interrupt=True)
    with trio.fail_after(60):
        async with Machine() as machine, trio.open_nursery() as nursery:
            link = machine.plug(device := Echo())
            machine.load(payload.path())
            machine.arguments(*task.arguments())
            await nursery.start(serve, device, link)
            async with trio.open_nursery() as running:
                await running.start(machine.run)
                for old, new in product(KINDS, repeat=2):
                    if link.kicks[0].name != old.name:
                        await link.swap(old)
                    if old is new and old in alone:
                        with pytest.raises(SwapRefused, match=old.name):
                            await link.swap(new)
                    else:
                        await link.swap(new)
                    assert link.kicks[0].name == new.name
                payload.stop(machine.boot)
            report = payload.parse(machine.console.read())
            nursery.cancel_scope.cancel()
    assert (report.ok, report.reason) == (True, "")


@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "interrupt"])
@pytest.mark.parametrize("program", [Program.IDLE, Program.KICK], ids=lambda program: program.name)
async def test_guest_without_requests_moves_over(program: Program, interrupt: bool) -> None:
    task = Task(program=program, count=0, interrupt=interrupt)
    with trio.fail_after(60):
        async with Machine() as machine, trio.open_nursery() as nursery:
            link = machine.plug(device := Echo())
            machine.load(payload.path())
            machine.arguments(*task.arguments())
            await nursery.start(serve, device, link)
            async with trio.open_nursery() as running:
                await running.start(machine.run)
                for kind in KINDS:
                    await link.swap(kind)
                assert link.kicks[0].name == KINDS[-1].name
                running.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


async def test_two_queues_are_changed_at_once() -> None:
    async with Machine() as machine:
        link = machine.plug(Echo(queues=2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.swap, MmioIoeventfd, 0)
            nursery.start_soon(link.swap, MmioExit, 1)
        assert [kick.name for kick in link.kicks] == ["mmio-ioeventfd", "mmio-exit"]


async def test_swap_before_the_guest_runs_needs_no_acknowledgement() -> None:
    device = Echo()
    async with Machine() as machine, trio.open_nursery() as nursery:
        link = machine.plug(device)
        await link.swap(MmioIoeventfd)
        machine.load(payload.path())
        machine.arguments(*Task(program=Program.ECHO, count=50).arguments())
        await nursery.start(serve, device, link)
        assert await machine.run() == PayloadResult.OK
        nursery.cancel_scope.cancel()


async def test_kind_that_cannot_stand_beside_itself_is_refused_and_the_old_one_stays() -> None:
    async with Machine() as machine:
        link = machine.plug(Echo(), doorbell=PioDatamatch)
        old = link.kicks[0].bell

        with pytest.raises(SwapRefused, match="pio-ioeventfd-datamatch"):
            await link.swap(PioDatamatch)

        assert link.kicks[0].bell is old
