"""A machine that was stopped goes on elsewhere, with no request lost or completed twice."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from paravirt.doorbells.kvm import MmioIoeventfd, PioIoeventfd, Vendor
from paravirt.guestside import payload
from paravirt.guestside.payload import Program, Task
from paravirt.hostside import Block, Device, Request
from paravirt.hostside.machine import Irqfd, Machine, Snapshot, SnapshotError
from tests.hostside.machine.playing import Echo, echo, echoing

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

    from paravirt.hostside.machine import MachineLink
    from tests.hostside.machine.conftest import Guest

pytestmark = pytest.mark.kvm

COUNT = 2000
DEPTH = 64


class Parking(Echo):
    """Answers so many requests, and none from then on."""

    queue_sizes: Sequence[int] = (256, 256)

    def __init__(self, answers: int) -> None:
        self.left = answers
        self.parked = 0

    async def handle(self, request: Request) -> None:  # type: ignore[override]
        if self.left == 0:
            self.parked += 1
            await trio.sleep_forever()
        self.left -= 1
        request.reply(request.read())


async def until(link: MachineLink, popped: int) -> None:
    """Wait until the device has taken so many requests."""
    while (ring := link.ring(0)) is None or ring.statistics().popped < popped:
        await trio.lowlevel.checkpoint()


async def stopped(
    machine: Machine, link: MachineLink, popped: int, drain: float, **task: bool
) -> Snapshot:
    """Run the echo load until so many requests were taken, and record it."""
    machine.load(payload.path())
    machine.arguments(*echo(COUNT, depth=DEPTH, **task).arguments())
    async with trio.open_nursery() as nursery:
        await nursery.start(machine.run)
        await until(link, popped)
        nursery.cancel_scope.cancel()
    return await machine.snapshot(drain=drain)


async def revive(path: Path, bell: str, vendor: str = "") -> dict[str, object]:
    """Let another process go on with a snapshot."""
    command = [sys.executable, "-m", "tests.hostside.machine.revival", str(path), bell, vendor]
    done = await trio.run_process(command, capture_stdout=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("bell", ["mmio-ioeventfd", "pio-exit"])
@pytest.mark.parametrize("interrupt", [False, True], ids=["poll", "interrupt"])
async def test_a_load_goes_on_in_another_process_on_another_doorbell(
    tmp_path: Path, rng: random.Random, bell: str, interrupt: bool
) -> None:
    async with Machine() as machine, echoing(machine, call_doorbell=Irqfd) as link:
        at = rng.randrange(DEPTH, COUNT - 2 * DEPTH)
        snapshot = await stopped(machine, link, at, drain=0, interrupt=interrupt)
    snapshot.save(tmp_path / "snapshot")

    answer = await revive(tmp_path / "snapshot", bell)

    report = payload.parse(str(answer["console"]))
    assert (answer["code"], answer["refused"]) == (0, {})
    assert f"requests={COUNT} " in str(answer["console"])
    assert report is not None


async def test_a_load_in_ring_0_goes_on(tmp_path: Path) -> None:
    async with Machine(ring=0) as machine, echoing(machine, call_doorbell=Irqfd) as link:
        snapshot = await stopped(machine, link, COUNT - 3 * DEPTH, drain=0, interrupt=True)
    snapshot.save(tmp_path / "snapshot")

    answer = await revive(tmp_path / "snapshot", "mmio-ioeventfd")

    assert answer["code"] == 0


async def test_requests_in_hand_for_ever_are_recorded_and_done_again(tmp_path: Path) -> None:
    async with (
        Machine() as machine,
        echoing(machine, device=Parking(500), call_doorbell=Irqfd) as link,
    ):
        snapshot = await stopped(machine, link, 500 + DEPTH, drain=0.01)
    queue = snapshot.links[0].queues[0]
    assert len(queue.heads) == len(set(queue.heads)) == DEPTH
    assert queue.used == 500
    snapshot.save(tmp_path / "snapshot")

    answer = await revive(tmp_path / "snapshot", "mmio-ioeventfd")

    assert answer["code"] == 0
    assert f"requests={COUNT} " in str(answer["console"])


async def test_a_machine_goes_on_after_its_snapshot() -> None:
    async with Machine() as machine, echoing(machine, call_doorbell=Irqfd) as link:
        await stopped(machine, link, 300, drain=1)

        with trio.fail_after(60):
            assert await machine.run() == 0


async def test_a_snapshot_of_a_restored_machine_still_has_what_was_in_hand() -> None:
    async with (
        Machine() as machine,
        echoing(machine, device=Parking(100), call_doorbell=Irqfd) as link,
    ):
        first = await stopped(machine, link, 100 + DEPTH, drain=0)
    async with Machine() as machine:
        machine.plug(Echo())
        machine.restore(first)  # nobody serves it

        again = await machine.snapshot(drain=0)

    assert again.links[0].queues == first.links[0].queues


@pytest.mark.parametrize("vendor", list(Vendor))
async def test_a_guest_finds_the_vendor_and_another_generation(
    tmp_path: Path, vendor: Vendor
) -> None:
    async with Machine() as machine, echoing(machine, call_doorbell=Irqfd) as link:
        snapshot = await stopped(machine, link, 300, drain=1)
        before = machine.boot.generation
    snapshot.save(tmp_path / "snapshot")

    answer = await revive(tmp_path / "snapshot", "pio-ioeventfd", vendor.name)

    assert answer["life"] == before + 1
    assert answer["code"] == 0
    async with Machine() as machine:
        machine.plug(Echo(), doorbell=MmioIoeventfd)
        machine.restore(snapshot, vendor=vendor)
        assert machine.vm.vendor() == vendor


async def test_a_sleeping_guest_is_woken_although_its_interrupt_was_lost() -> None:
    """Each queue gets one interrupt: the one that came while nobody listened is not saved."""
    device = Parking(0)
    async with Machine() as machine, echoing(machine, device=device, call_doorbell=Irqfd) as link:
        machine.load(payload.path())
        machine.arguments(*echo(10, interrupt=True).arguments())
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            await until(link, 1)
            nursery.cancel_scope.cancel()
        snapshot = await machine.snapshot(drain=0)
    async with Machine() as machine, echoing(machine, call_doorbell=Irqfd):
        machine.restore(snapshot)

        with trio.fail_after(60):
            assert await machine.run() == 0


async def test_every_vcpu_keeps_its_registers() -> None:
    async with Machine(vcpus=3) as machine, echoing(machine, call_doorbell=Irqfd) as link:
        snapshot = await stopped(machine, link, 300, drain=1)
        before = [vcpu.registers().values for vcpu in machine.vcpus]
    async with Machine(vcpus=3) as machine, echoing(machine, call_doorbell=Irqfd):
        machine.restore(snapshot)

        assert [vcpu.registers().values for vcpu in machine.vcpus] == before
        with trio.fail_after(60):
            assert await machine.run() == 0


class Other(Device):
    device_id = 43

    def handle(self, request: Request) -> None:
        request.reply(request.read())


class Narrow(Echo):
    queue_sizes: Sequence[int] = (256,)


@pytest.fixture
async def taken() -> Snapshot:
    async with Machine() as machine, echoing(machine, call_doorbell=Irqfd) as link:
        return await stopped(machine, link, 300, drain=1)


@pytest.mark.parametrize(
    ("make", "device", "text"),
    [
        (partial(Machine, memory_size=32 << 20), Echo(), "bytes of memory"),
        (partial(Machine, ring=0), Echo(), "privilege ring"),
        (partial(Machine, vcpus=2), Echo(), "1 vCPUs, this machine 2"),
        (Machine, None, "1 devices, this machine 0"),
        (Machine, Other(), "is of type 43, in the snapshot 42"),
        (Machine, Narrow(), r"queues of the sizes \[256\], in the snapshot \[256, 256\]"),
    ],
)
async def test_another_machine_is_refused_by_name(
    taken: Snapshot, make: partial[Machine], device: Device | None, text: str
) -> None:
    async with make() as machine:
        if device:
            machine.plug(device, doorbell=PioIoeventfd)

        with pytest.raises(SnapshotError, match=text):
            machine.restore(taken)

        with pytest.raises(RuntimeError, match="nothing to run"):
            await machine.run()


async def test_a_machine_with_a_payload_and_one_that_runs_are_left_alone(
    taken: Snapshot, guest: Guest
) -> None:
    async with Machine() as machine:
        machine.load(guest("1: jmp 1b"))
        with pytest.raises(RuntimeError, match="only a new machine"):
            machine.restore(taken)

        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            with pytest.raises(trio.BusyResourceError):
                await machine.snapshot()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("heads", "used"), [((300,), 0), ((1, 1), 0), ((-1,), 0), ((), 65536), ((), -1)]
)
async def test_a_queue_that_cannot_be_is_refused(
    taken: Snapshot, heads: tuple[int, ...], used: int
) -> None:
    link = taken.links[0]
    queue = msgspec.structs.replace(link.queues[0], heads=heads, used=used)
    forged = msgspec.structs.replace(link, queues=(queue,))
    async with Machine() as machine:
        machine.plug(Echo())

        with pytest.raises(SnapshotError, match="device 0"):
            machine.restore(msgspec.structs.replace(taken, links=(forged,)))


async def test_a_disk_is_verified_across_the_restore(tmp_path: Path, rng: random.Random) -> None:
    """The payload writes a pattern, flushes and reads it back; the disk itself is not recorded."""
    image = tmp_path / "image"
    image.write_bytes(bytes(4 << 20))
    task = Task(program=Program.BLOCK, count=512, depth=DEPTH, interrupt=True)
    with Block(image) as disk:
        async with Machine() as machine, echoing(machine, device=disk, call_doorbell=Irqfd) as link:
            machine.load(payload.path())
            machine.arguments(*task.arguments())
            async with trio.open_nursery() as nursery:
                await nursery.start(machine.run)
                await until(link, rng.randrange(DEPTH, 900))
                nursery.cancel_scope.cancel()
            snapshot = await machine.snapshot(drain=0)
    with Block(image) as disk:
        async with (
            Machine() as machine,
            echoing(machine, device=disk, doorbell=MmioIoeventfd, call_doorbell=Irqfd),
        ):
            machine.restore(snapshot)
            with trio.fail_after(60):
                assert await machine.run() == 0

            assert payload.parse(machine.console.read()).ok
