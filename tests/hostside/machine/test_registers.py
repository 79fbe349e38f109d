"""A guest that misuses the register block, by real exits: no effect, and the cause is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.doorbells import Polling
from paravirt.hostside.machine import Machine
from paravirt.transport.mmio import Refusal, Register
from tests.hostside.machine.playing import Echo, echo, echoing, play
from tests.hostside.machine.scripted import (
    READY,
    RING,
    SIZE,
    Row,
    negotiation,
    play_rows,
    queue_rows,
)

if TYPE_CHECKING:
    import random
    from pathlib import Path

pytestmark = pytest.mark.kvm

MEMORY = 8 << 20
OUTSIDE = {
    "behind the end": MEMORY,
    "across the end": MEMORY - 32,
    "device": 0xD0000000,
    "around 2^64": (1 << 64) - 16,
    "high half": 1 << 32,
}
PARTS = ("desc", "driver", "device")
DRIVER_OK = Row(Register.STATUS, 15)
NO_REGISTER = sorted(set(range(0, 0x100, 4)) - set(Register))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("where", OUTSIDE)
async def test_queue_outside_of_memory_is_never_ready(
    tmp_path: Path, ring: int, part: str, where: str
) -> None:
    """4.2.2: QueueReady stays 0; with a place in memory the same queue is taken."""
    async with Machine(ring=ring, memory_size=MEMORY) as machine:
        link = machine.plug(Echo(), doorbell=Polling)
        wrong, right = queue_rows(**{part: OUTSIDE[where]}), queue_rows()
        rows = (*negotiation(), *wrong, *READY, *right, *READY)

        assert await play_rows(machine, tmp_path, *rows) == [0, 1]
        assert link.refused == {Refusal.ADDRESS: 1}


@pytest.mark.parametrize("started", [False, True], ids=["ready", "running"])
async def test_queue_that_is_ready_keeps_its_size_and_its_place(
    tmp_path: Path, ring: int, started: bool
) -> None:
    """4.2.2.2: the driver must not touch them before it took the queue back."""
    places = (Register.QUEUE_DESC_LOW, Register.QUEUE_DRIVER_LOW, Register.QUEUE_DEVICE_LOW)
    later = [Row(Register.QUEUE_SIZE, 8)]
    later += [Row(low + half, 0x500000) for low in places for half in (0, 4)]
    async with Machine(ring=ring) as machine, echoing(machine, doorbell=Polling) as link:
        begin = (*negotiation(), *queue_rows(), *READY, *((DRIVER_OK,) if started else ()))

        assert await play_rows(machine, tmp_path, *begin, *later) == [1]
        assert link.refused == {Refusal.QUEUE_READY: len(later)}
        queue = link.state.device.queues[0]
        assert queue.enabled
        assert queue.size == SIZE
        assert [part.start for part in queue.parts()] == [RING, RING + 0x1000, RING + 0x2000]
        assert (await play(machine, echo(20))).ok, "it works again after a reset"


@pytest.mark.parametrize("width", [1, 2, 8])
async def test_wrong_width_is_refused_by_each_register(tmp_path: Path, width: int) -> None:
    """4.2.2: 32 bits wide and aligned."""
    stores = [Row(offset, 1, width) for offset in Register]
    loads = [Row(offset, None, width) for offset in Register]
    async with Machine() as machine:
        link = machine.plug(Echo(), doorbell=Polling)
        fresh = link.state

        assert await play_rows(machine, tmp_path, *stores, *loads) == [0] * len(loads)
        assert link.refused == {Refusal.WIDTH: len(stores) + len(loads)}
        assert link.state == fresh


async def test_register_that_is_none_reads_zero_and_takes_nothing(tmp_path: Path) -> None:
    stores = [Row(offset, 0xFFFFFFFF) for offset in NO_REGISTER]
    loads = [Row(offset) for offset in NO_REGISTER]
    async with Machine() as machine:
        link = machine.plug(Echo(), doorbell=Polling)
        fresh = link.state

        assert await play_rows(machine, tmp_path, *stores, *loads) == [0] * len(loads)
        assert link.refused == {Refusal.UNKNOWN: len(stores) + len(loads)}
        assert link.state == fresh


async def test_kicks_by_the_register_of_queues_that_are_not_there_are_counted(
    tmp_path: Path,
) -> None:
    """4.2.2, QueueNotify: one beyond the last, some that do not run, and the rest of the bits."""
    kicks = [Row(Register.QUEUE_NOTIFY, queue) for queue in (2, 99, 0x10000, 0xFFFFFFFF, 1)]
    begin = (*negotiation(), *queue_rows(), *READY, DRIVER_OK)
    async with Machine() as machine, echoing(machine, doorbell=Polling) as link:
        await play_rows(machine, tmp_path, *begin, *kicks)

        assert link.refused == {Refusal.NO_QUEUE: 4, Refusal.QUEUE_NOT_READY: 1}
        assert (await play(machine, echo(20))).ok


async def test_device_survives_accesses_at_random(tmp_path: Path, rng: random.Random) -> None:
    """Any register, any width, values that say something to some register."""
    values = (0, 1, 3, 11, 15, 16, 128, RING, RING + 0x1000, 0xFFFFFFFF)
    rows = list(negotiation())
    for _ in range(2000):
        offset = rng.choice([*Register] * 4 + [rng.randrange(0x1000)])
        width = rng.choice([4] * 9 + [1, 2, 8])
        value = rng.choice([None, *values])
        rows.append(Row(offset, value, width))
    async with Machine() as machine, echoing(machine) as link:
        await play_rows(machine, tmp_path, *rows)

        assert sum(link.refused.values()) > 100
        assert (await play(machine, echo(50, depth=4))).ok, "it works again after a reset"
