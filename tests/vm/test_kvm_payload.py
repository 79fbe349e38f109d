"""A bare-metal guest on a real KVM drives our devices, with every doorbell that this host has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import Adaptive, EventFd, Polling
from paravirt.doorbells.kvm import (
    GUEST_KINDS,
    DoorbellRefused,
    MmioExit,
    PioDatamatch,
    PioExit,
    PioIoeventfd,
    Vmport,
    probe,
)
from paravirt.guestside import payload
from paravirt.guestside.payload import PayloadResult, Program, Task
from paravirt.hostside import Block, serve
from paravirt.hostside.machine import Machine
from tests.disks import image
from tests.tools import need_kvm
from tests.vm.payloads import Echo, run_payload

if TYPE_CHECKING:
    from pathlib import Path

    from paravirt.doorbells import Doorbell
    from paravirt.doorbells.kvm import GuestBell

pytestmark = pytest.mark.kvm

OURS = (EventFd, Polling, Adaptive)  # those that a guest rings by QueueNotify, or not at all
HYPERCALLS = tuple(kind for kind in GUEST_KINDS if kind.name.startswith("hypercall"))
KINDS = (*(kind for kind in GUEST_KINDS if kind not in HYPERCALLS), *OURS)
IN_USER_SPACE = (PioExit, MmioExit, Vmport)
# Ring 0 is emulated on some hosts, at a microsecond an instruction.
FEW = {0: 12, 3: 400}


@pytest.fixture(autouse=True)
def kvm() -> None:
    need_kvm()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[Doorbell]:
    kind: type[Doorbell] = request.param
    return kind


@pytest.mark.parametrize("ring", [3, 0])
@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "interrupt"])
async def test_every_echo_comes_back(kind: type[Doorbell], ring: int, interrupt: bool) -> None:
    """Depth 1 is the hard case: each kick and each call that is owed and not sent would hang."""
    task = Task(program=Program.ECHO, count=FEW[ring], interrupt=interrupt)

    ended = await run_payload(Echo(), task, doorbell=kind, ring=ring)

    assert (ended.code, ended.report.reason) == (PayloadResult.OK, "")
    assert ended.report.figures["requests"] == FEW[ring]
    if not interrupt:
        assert ended.report.figures["interrupts"] == 0


@pytest.mark.parametrize("ring", [3, 0])
async def test_sleeper_wakes_at_each_interrupt(ring: int) -> None:
    device = Echo()
    async with Machine(ring=ring) as machine, trio.open_nursery() as nursery:
        link = machine.plug(device)
        machine.load(payload.path())
        machine.arguments(*Task(program=Program.IDLE, count=20, interrupt=True).arguments())
        await nursery.start(serve, device, link)
        await nursery.start(machine.run)
        assert await machine.console.line() == "asleep"

        for number in range(1, 21):
            link.changed.ring()
            while machine.boot.interrupts < number:
                await trio.lowlevel.checkpoint()

        figures = payload.parse(await machine.console.line()).figures
        assert figures["interrupts"] == 20
        assert 0 < figures["woken"] <= 20  # two interrupts may be one wake
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("interrupt", [False, True], ids=["polling", "interrupt"])
async def test_disk_keeps_what_the_guest_wrote(
    kind: type[Doorbell], interrupt: bool, tmp_path: Path
) -> None:
    task = Task(program=Program.BLOCK, count=64, depth=8, interrupt=interrupt, seed=5)
    path = image(tmp_path / "disk.img", 1 << 20)

    with Block(path) as disk:
        ended = await run_payload(disk, task, doorbell=kind)

    assert (ended.code, ended.report.reason) == (PayloadResult.OK, "")
    assert ended.report.figures["verified"] == 64 * 4096
    data = path.read_bytes()
    numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, 1 << 18, 4096)]
    assert numbers == list(range(64))  # each pattern begins with the number of its request


@pytest.mark.parametrize("kind", [PioIoeventfd, PioDatamatch, Polling], ids=lambda kind: kind.name)
async def test_several_queues_at_depth_answer_each_their_own(kind: type[Doorbell]) -> None:
    task = Task(program=Program.ECHO, count=4000, depth=16, queues=4, size=100)

    ended = await run_payload(Echo(queues=4), task, doorbell=kind)

    assert (ended.code, ended.report.reason) == (PayloadResult.OK, "")
    assert ended.report.figures["requests"] == 4000


async def test_rings_without_event_index_and_tables_work(kind: type[Doorbell]) -> None:
    task = Task(program=Program.ECHO, count=200, depth=4, features=1 << 32)

    ended = await run_payload(Echo(), task, doorbell=kind)

    assert ended.code == PayloadResult.OK


async def test_other_cpus_sleep_while_one_drives() -> None:
    task = Task(program=Program.ECHO, count=100, interrupt=True)

    ended = await run_payload(Echo(), task, doorbell=PioIoeventfd, vcpus=2)

    assert ended.code == PayloadResult.OK


@pytest.mark.parametrize("kind", GUEST_KINDS[:9], ids=lambda kind: kind.name)
async def test_kick_leaves_the_kernel_only_where_it_should(kind: type[GuestBell]) -> None:
    task = Task(program=Program.KICK, count=50)

    ended = await run_payload(Echo(), task, doorbell=kind)

    assert ended.code == PayloadResult.OK
    assert ended.report.figures["rung"] == 50
    assert ended.machine.kicks == (50 if kind in IN_USER_SPACE else 0)
    assert ended.machine.stray == 0


@pytest.mark.parametrize("kind", HYPERCALLS, ids=lambda kind: kind.name)
async def test_hypercall_that_this_host_lacks_is_refused_with_its_reason(
    kind: type[GuestBell],
) -> None:
    (found,) = [answer for answer in probe() if answer.name == kind.name]
    async with Machine(ring=0) as machine:
        if found.available:
            machine.plug(Echo(), doorbell=kind)
        else:
            with pytest.raises(DoorbellRefused) as caught:
                machine.plug(Echo(), doorbell=kind)
            assert found.reason in str(caught.value)
