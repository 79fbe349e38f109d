"""What a machine must be like to become a snapshot, and what its devices hear of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from paravirt.doorbells.kvm import Vendor
from paravirt.guestside import payload
from paravirt.guestside.payload import Program, Task
from paravirt.hostside import Block, Device
from paravirt.hostside.machine import Irqfd, Machine, Snapshot, SnapshotError
from paravirt.hostside.machine._cpuid import CpuidLeaf, tell_apart
from paravirt.hostside.machine.snapshot._check import STATE_BYTES
from paravirt.transport import NegotiationError
from paravirt.transport.wire.block import WRITEBACK_AT
from tests.hostside.machine.playing import Echo, echo, echoing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.kvm


class Counting(Echo):
    """Keeps a number that no driver can see."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def save_state(self) -> bytes:
        return b"\1" + self.number.to_bytes(8, "little")

    def load_state(self, state: bytes) -> None:
        if state[:1] != b"\1" or len(state) != 9:
            raise NegotiationError("this is no number")
        self.number = int.from_bytes(state[1:], "little")


async def standing(device: Device, *, features: int = ~0) -> Snapshot:
    """Return a machine with a device that the guest has set up and uses."""
    async with Machine() as machine:
        link = machine.plug(device, call_doorbell=Irqfd, features=features)
        machine.load(payload.path())
        machine.arguments(*echo(1).arguments())
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            while link.ring(0) is None:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return await machine.snapshot(drain=0)


def altered(snapshot: Snapshot, **fields: object) -> Snapshot:
    """Return a snapshot whose device is another."""
    (link,) = snapshot.links
    return msgspec.structs.replace(snapshot, links=(msgspec.structs.replace(link, **fields),))


async def restored(snapshot: Snapshot, device: Device, *, other_cpu: bool = False) -> None:
    async with Machine() as machine:
        machine.plug(device)
        machine.restore(snapshot, other_cpu=other_cpu)


# The device's own state.


async def test_a_device_goes_on_with_what_it_saved() -> None:
    snapshot = await standing(Counting(1 << 40))

    await restored(snapshot, there := Counting())

    assert snapshot.links[0].state == b"\1" + (1 << 40).to_bytes(8, "little")
    assert there.number == 1 << 40


async def test_a_device_that_refuses_its_state_is_named_and_nothing_is_restored() -> None:
    snapshot = altered(await standing(Counting(7)), state=b"\2")
    async with Machine() as machine:
        link = machine.plug(there := Counting(3))

        with pytest.raises(SnapshotError, match="device 0: this is no number"):
            machine.restore(snapshot)

        assert there.number == 3
        assert link.state.device.status == 0
        assert machine.memory.read(snapshot.memory[0].address, 4096) == bytes(4096)


async def test_a_device_that_keeps_too_much_is_refused_at_either_end() -> None:
    class Hoard(Counting):
        def save_state(self) -> bytes:
            return bytes(STATE_BYTES + 1)

    with pytest.raises(SnapshotError, match=f"{STATE_BYTES + 1} bytes of state"):
        await standing(Hoard())

    forged = altered(await standing(Counting()), state=bytes(STATE_BYTES + 1))
    with pytest.raises(SnapshotError, match=f"at most {STATE_BYTES}"):
        await restored(forged, Counting())


async def test_a_disk_keeps_the_cache_mode_that_its_driver_chose(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    task = Task(program=Program.BLOCK, count=2000, size=512)
    with Block(image) as disk:
        async with Machine() as machine, echoing(machine, device=disk) as link:
            machine.load(payload.path())
            machine.arguments(*task.arguments())
            async with trio.open_nursery() as nursery:
                await nursery.start(machine.run)
                while link.ring(0) is None:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            disk.config_written(WRITEBACK_AT, b"\0")
            snapshot = await machine.snapshot()

    with Block(image) as disk:
        async with Machine() as machine, echoing(machine, device=disk) as link:
            before = disk.config.to_bytes()
            machine.restore(snapshot)

            assert before[WRITEBACK_AT] == 1
            assert disk.config.to_bytes()[WRITEBACK_AT] == 0
            assert link.state.device.config == disk.config.to_bytes()
            with trio.fail_after(60):
                assert await machine.run() == 0


async def test_a_disk_of_another_size_is_refused(tmp_path: Path) -> None:
    for name, size in ("one", 1 << 20), ("two", 2 << 20):
        (tmp_path / name).write_bytes(bytes(size))
    async with Machine() as machine:
        with Block(tmp_path / "one") as disk:
            machine.plug(disk)
            machine.load(payload.path())
            snapshot = await machine.snapshot()
    async with Machine() as machine:
        with Block(tmp_path / "two") as disk:
            machine.plug(disk)

            with pytest.raises(SnapshotError, match="device 0: the disk that comes has capacity"):
                machine.restore(snapshot)


# What the driver was offered.


async def test_another_offer_is_refused_by_the_names_of_its_features() -> None:
    snapshot = await standing(Echo(), features=~(1 << 29))

    with pytest.raises(SnapshotError, match=r"device 0 offers event index more .* nothing"):
        await restored(snapshot, Echo())


async def test_a_feature_that_is_gone_is_named() -> None:
    snapshot = await standing(Echo())
    async with Machine() as machine:
        machine.plug(Echo(), features=~(1 << 29))

        with pytest.raises(SnapshotError, match=r"offers nothing more .* lacks event index"):
            machine.restore(snapshot)


class Narrow(Echo):
    queue_sizes: Sequence[int] = (256, 128)


async def test_another_size_of_a_queue_and_of_the_configuration_is_named() -> None:
    snapshot = await standing(Echo())

    with pytest.raises(SnapshotError, match=r"sizes \[256, 128\], in the snapshot \[256, 256\]"):
        await restored(snapshot, Narrow())

    block = snapshot.links[0].block
    device = msgspec.structs.replace(block.device, config=bytes(8))
    wide = altered(snapshot, block=msgspec.structs.replace(block, device=device))
    with pytest.raises(SnapshotError, match="bytes of configuration: 0, in the snapshot 8"):
        await restored(wide, Echo())


# The CPU.


def other_cpu(snapshot: Snapshot, function: int, **registers: int) -> Snapshot:
    """Return a snapshot of a CPU with another leaf."""
    rows = [
        msgspec.structs.replace(row, **registers) if row.function == function else row
        for row in snapshot.cpuid
    ]
    return msgspec.structs.replace(snapshot, cpuid=tuple(rows))


async def test_a_snapshot_of_another_cpu_is_refused_unless_that_is_asked_for() -> None:
    snapshot = other_cpu(await standing(Echo()), 1, eax=0xABC)

    with pytest.raises(SnapshotError, match=r"another CPU: leaf 0x1\.0 eax 0xabc, here 0x"):
        await restored(snapshot, Echo())

    await restored(snapshot, Echo(), other_cpu=True)


async def test_a_cpu_of_another_maker_is_no_difference_once_the_maker_is_chosen() -> None:
    snapshot = await standing(Echo())
    other = other_cpu(snapshot, 0, ebx=1, ecx=2, edx=3)
    async with Machine() as machine:
        machine.plug(Echo())
        with pytest.raises(SnapshotError, match=r"leaf 0x0\.0 ebx 0x1, here"):
            machine.restore(other)
    for vendor in Vendor:
        async with Machine() as machine:
            machine.plug(Echo())
            machine.restore(other, vendor=vendor)

            assert machine.vm.vendor() == vendor


def test_leaves_that_number_the_core_that_was_asked_are_no_difference() -> None:
    """Intel SDM, CPUID: EBX[31:24] of leaf 1 and EDX of 0xB name the APIC of this very core."""
    one = [CpuidLeaf(1, 0, 5, 0x01000800, 0, 0), CpuidLeaf(0xB, 0, 0, 0, 0, 1)]
    other = [CpuidLeaf(1, 0, 5, 0x02000800, 0, 0), CpuidLeaf(0xB, 0, 0, 0, 0, 2)]

    assert tell_apart(one, other) == ""


def test_leaves_that_one_lacks_and_the_number_of_differences_are_told() -> None:
    one = [CpuidLeaf(7, 0, 0, 0, 0, 0)]
    other = [CpuidLeaf(7, index, 0, 0, 0, 0) for index in range(3)]

    assert tell_apart(one, other).startswith("leaf 0x7.1 eax absent, here 0x0; ")
    assert tell_apart(other, one).endswith("; 2 more")
