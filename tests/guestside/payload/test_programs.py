"""What the payload does on an honest device, without a virtual machine."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from paravirt.guestside.payload import Operation, PayloadResult, Program, Task
from tests.guestside.payload.payload_harness import run

if TYPE_CHECKING:
    from pathlib import Path

VERSION_1 = 1 << 32
RINGS = {
    "plain": VERSION_1,
    "event-idx": VERSION_1 | 1 << 29,
    "indirect": VERSION_1 | 1 << 28,
    "both": VERSION_1 | 3 << 28,
}
FLUSH = 1 << 9
WAYS = [*itertools.product(RINGS, [False, True])]


@pytest.mark.parametrize(("ring", "interrupt"), WAYS)
@pytest.mark.parametrize(("depth", "queues"), [(1, 1), (64, 1), (7, 3)])
def test_every_echo_is_answered_and_looked_at(
    harness: Path, ring: str, interrupt: bool, depth: int, queues: int
) -> None:
    """A device end that sleeps until it is kicked: a kick that was owed and not sent would hang."""
    task = Task(
        program=Program.ECHO, count=1000, depth=depth, interrupt=interrupt, queues=queues, size=33
    )

    code, report, _ = run(harness, task, features=RINGS[ring])

    assert (code, report.ok, report.reason) == (PayloadResult.OK, True, "")
    assert report.figures["requests"] == 1000
    assert report.figures["bytes"] == 33000
    assert (report.figures["interrupts"] > 0) is interrupt


@pytest.mark.parametrize(("ring", "interrupt"), WAYS)
def test_plain_load_is_only_counted(harness: Path, ring: str, interrupt: bool) -> None:
    """One buffer a request, for the device to read, and nothing comes back."""
    task = Task(program=Program.LOAD, count=1000, depth=64, interrupt=interrupt, size=16)

    code, report, _ = run(harness, task, features=RINGS[ring])

    assert (code, report.program, report.reason) == (PayloadResult.OK, "load", "")
    assert report.figures["requests"] == 1000


def test_more_requests_than_indices_go_round_the_ring(harness: Path) -> None:
    """70000 is past 65536 (2.7.13: indices wrap), and past where "no call" has to be said again."""
    code, report, _ = run(harness, Task(program=Program.ECHO, count=70000, depth=32))

    assert code == PayloadResult.OK
    assert report.figures["requests"] == 70000
    assert report.figures["interrupts"] == 0


def test_fewer_buffers_fit_a_ring_without_tables(harness: Path) -> None:
    """64 descriptors are room for 32 requests of two buffers: deeper is not an error."""
    task = Task(program=Program.ECHO, count=300, depth=64)

    code, report, _ = run(harness, task, features=VERSION_1)

    assert code == PayloadResult.OK
    assert report.figures["requests"] == 300


@pytest.mark.parametrize(("ring", "interrupt"), WAYS)
def test_disk_keeps_what_was_written(harness: Path, ring: str, interrupt: bool) -> None:
    task = Task(program=Program.BLOCK, count=0, depth=16, interrupt=interrupt, seed=7)

    code, report, _ = run(harness, task, features=RINGS[ring] | FLUSH)

    assert (code, report.reason) == (PayloadResult.OK, "")
    assert report.figures["written"] == report.figures["verified"] == 1 << 20
    assert report.figures["flushes"] == 1


def test_flush_is_not_sent_where_it_is_not_offered(harness: Path) -> None:
    """5.2.6.1."""
    _, report, _ = run(harness, Task(program=Program.BLOCK, count=4))

    assert report.ok
    assert report.figures["flushes"] == 0


def test_reading_what_nobody_wrote_is_found_out(harness: Path) -> None:
    task = Task(program=Program.BLOCK, count=4, operations=Operation.READ)

    code, report, _ = run(harness, task)

    assert (code, report.reason) == (PayloadResult.WRONG, "wrong-data")


def test_kicks_are_counted_and_timed(harness: Path) -> None:
    code, report, said = run(harness, Task(program=Program.KICK, count=500))

    assert code == PayloadResult.OK
    assert report.figures["rung"] == report.figures["kicks"] == 500
    assert report.figures["least"] <= report.figures["p50"] <= report.figures["p99"]
    assert "taken=2 " in said  # the generation of its bell, stored after the kick


def test_sleeper_wakes_once_an_interrupt(harness: Path) -> None:
    code, report, _ = run(harness, Task(program=Program.IDLE, count=20, interrupt=True))

    assert code == PayloadResult.OK
    assert report.figures["woken"] == report.figures["interrupts"] == 20
