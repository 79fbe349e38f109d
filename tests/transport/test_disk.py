"""Disk requests carried out in C: what is done, in what order, and what a call leaves."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from paravirt.transport import MemoryGone, Region, RingBroken
from paravirt.transport.wire.block import HEADER, SECTOR, BlockStatus

from .disk_scene import ASKING, CONTENT, DATA, IN, MORE, OUT, SECTORS, TABLES, Scene
from .fenced import PAGE

if TYPE_CHECKING:
    from collections.abc import Generator

OK = bytes([BlockStatus.OK])
MOST = 32
"""Requests that one call carries out."""


@pytest.fixture
def scene() -> Generator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def test_reads_and_writes_are_done_and_given_back_in_order(scene: Scene) -> None:
    """5.2.6: the used length of a read is its data and the status, of a write the status."""
    scene.memory.write(DATA, b"w" * SECTOR)
    write = scene.chain([scene.header(OUT, 3), (DATA, SECTOR)], [(DATA + SECTOR, 1)])
    read = scene.chain([scene.header(IN, 5, 1)], [(MORE, SECTOR), (MORE + SECTOR, 1)])
    scene.memory.write(DATA + SECTOR, b"?")
    scene.memory.write(MORE + SECTOR, b"?")
    scene.device.cycle([])

    assert scene.run() is False
    assert scene.left() == []
    assert scene.ring.take_used() == [(write, 1), (read, SECTOR + 1)]
    assert scene.memory.read(DATA + SECTOR, 1) == OK
    assert scene.memory.read(MORE, SECTOR + 1) == CONTENT[5 * SECTOR : 6 * SECTOR] + OK
    assert scene.file() == CONTENT[: 3 * SECTOR] + b"w" * SECTOR + CONTENT[4 * SECTOR :]
    assert scene.disk.wrote
    statistics = scene.device.statistics()
    assert (statistics.ahead, statistics.silent, statistics.in_flight) == (2, 1, 0)


def test_reads_alone_leave_nothing_to_commit(scene: Scene) -> None:
    scene.read()
    scene.device.cycle([])
    scene.run()

    assert not scene.disk.wrote


def test_what_the_driver_offers_meanwhile_is_done_too(scene: Scene) -> None:
    scene.read(1)
    scene.device.cycle([])
    heads = [scene.read(2), scene.read(SECTORS - 1)]

    assert scene.run() is False
    assert [head for head, _ in scene.ring.take_used()][1:] == heads
    assert scene.memory.read(DATA, SECTOR) == CONTENT[-SECTOR:]


def test_no_more_is_taken_than_the_limit_allows(scene: Scene) -> None:
    scene.device.limit = 1
    scene.read()
    scene.read()
    scene.device.cycle([])

    assert scene.run() is False
    assert len(scene.ring.take_used()) == 1
    assert scene.device.limit == 0


def test_a_call_ends_after_so_many_requests(scene: Scene) -> None:
    for _ in range(MOST + 8):
        scene.read()
    scene.device.cycle([])

    assert scene.run() is True
    assert len(scene.ring.take_used()) == MOST
    assert len(scene.left()) == 8
    assert scene.run() is False
    assert len(scene.ring.take_used()) == 8


def test_a_call_ends_after_so_many_bytes(scene: Scene) -> None:
    """It is to take 50 us, whatever the driver asks for."""
    os.ftruncate(scene.fd, 1 << 20)
    for _ in range(3):
        buffers = [(DATA, 2 * PAGE)] * 8 + [(DATA, 1)]
        scene.chain([scene.header(IN, 0)], buffers)
    scene.device.cycle([])

    assert scene.run(size=1 << 20) is True
    assert len(scene.ring.take_used()) == 2
    assert scene.run(size=1 << 20) is False
    assert len(scene.ring.take_used()) == 1


def test_a_call_that_is_due_is_told_of_at_once() -> None:
    """Without EVENT_IDX the driver wants one for each publication (2.7.7)."""
    scene = Scene(ASKING)
    scene.read(1)
    scene.device.cycle([])
    behind = scene.read(2)

    assert scene.run() is True
    assert scene.device.call_due
    assert scene.left() == [behind]
    assert scene.run() is True  # there is a call for that one, too
    assert scene.run() is False
    assert not scene.device.call_due
    assert scene.device.statistics().silent == 0
    scene.close()


def test_a_ring_without_headers_at_hand_is_left_alone(scene: Scene) -> None:
    scene.device.peek(8)
    head = scene.read()
    scene.device.cycle([])

    assert scene.run() is False
    assert scene.left() == [head]


def test_it_looks_for_more_as_long_as_it_is_told(scene: Scene) -> None:
    """The driver's thread offers the next when the last has come back; a minute is for ever."""
    scene.read()
    scene.device.cycle([])
    ring, entry = scene.ring, scene.ring.words.avail_entry

    def drive() -> None:
        for number in range(1, MOST):
            while ring.used_index < number:
                pass
            scene.ring.words.put(entry(number), 0)
            ring.put_avail_index(number + 1)

    driver = threading.Thread(target=drive)
    driver.start()
    ran = scene.run(spin_ns=60 * 10**9)
    driver.join()

    assert ran is True
    assert scene.device.statistics().ahead == MOST


def test_it_looks_no_longer_than_it_is_told(scene: Scene) -> None:
    scene.read()
    scene.device.cycle([])

    assert scene.run(spin_ns=1000) is False
    assert scene.device.statistics().ahead == 1


def test_it_does_not_look_for_a_driver_of_its_own_thread(scene: Scene) -> None:
    scene.device.concurrent = False
    scene.read()
    scene.device.cycle([])

    assert scene.run(spin_ns=10**15) is False


# Where a driver puts things.


@pytest.mark.parametrize("cuts", [[1, 7, 8], [16], [15, 1], [4, 4, 8], [1] * 16])
@pytest.mark.parametrize("start", [DATA, MORE - 9])
def test_a_header_may_lie_in_any_pieces(scene: Scene, cuts: list[int], start: int) -> None:
    """2.7.4.1: no assumption about how the driver cuts a message into buffers."""
    scene.memory.write(start, HEADER.pack(IN, 7))
    readable: list[tuple[int, int]] = []
    for size in cuts:
        readable.append((start, size))
        start += size
    head = scene.chain(readable, [(TABLES, SECTOR + 1)])
    scene.device.cycle([])

    assert scene.run() is False
    assert scene.ring.take_used() == [(head, SECTOR + 1)]
    assert scene.memory.read(TABLES, SECTOR + 1) == CONTENT[7 * SECTOR : 8 * SECTOR] + OK


@pytest.mark.parametrize("cuts", [[SECTOR + 1], [SECTOR - 1, 2], [1, SECTOR], [100, 0, 412, 1]])
@pytest.mark.parametrize("start", [DATA, MORE - 1, MORE - 300, MORE - SECTOR])
def test_data_and_status_may_lie_in_any_pieces(scene: Scene, cuts: list[int], start: int) -> None:
    at, writable = start, list[tuple[int, int]]()
    for size in cuts:
        writable.append((at, size))
        at += size
    scene.memory.write(start, b"?" * (SECTOR + 2))
    head = scene.chain([scene.header(IN, 9)], writable)
    scene.device.cycle([])

    assert scene.run() is False
    assert scene.ring.take_used() == [(head, SECTOR + 1)]
    expected = CONTENT[9 * SECTOR : 10 * SECTOR] + OK + b"?"
    assert scene.memory.read(start, SECTOR + 2) == expected


def test_header_and_data_may_share_a_buffer(scene: Scene) -> None:
    scene.memory.write(MORE - 100, HEADER.pack(OUT, 2) + b"w" * SECTOR)
    head = scene.chain([(MORE - 100, HEADER.size + SECTOR)], [(DATA, 40)])
    scene.memory.write(DATA, b"?" * 40)
    scene.device.cycle([])

    assert scene.run() is False
    assert scene.ring.take_used() == [(head, 40)]
    assert scene.memory.read(DATA, 40) == b"?" * 39 + OK
    assert scene.file()[2 * SECTOR : 3 * SECTOR] == b"w" * SECTOR


def test_a_table_of_a_thousand_buffers_is_done(scene: Scene) -> None:
    """2.7.5.3; a buffer a byte."""
    writable = [(DATA + at, 1) for at in range(2 * SECTOR)]
    head = scene.table([scene.header(IN, 4)], [*writable, (MORE, 1)])
    scene.memory.write(MORE, b"?")
    scene.device.cycle([])

    assert scene.run() is False
    assert scene.ring.take_used() == [(head, 2 * SECTOR + 1)]
    assert scene.memory.read(DATA, 2 * SECTOR) == CONTENT[4 * SECTOR : 6 * SECTOR]
    assert scene.memory.read(MORE, 1) == OK


# A driver that lies.


def test_a_bad_chain_goes_back_and_the_others_are_done(scene: Scene) -> None:
    first = scene.read()
    scene.device.cycle([])
    bad = scene.chain([(1 << 60, 16)], [])
    last = scene.read()

    assert scene.run() is True
    assert scene.device.rejects
    assert scene.device.take_reject().cause is not None
    assert scene.run() is False
    used = [(first, SECTOR + 1), (bad, 0), (last, SECTOR + 1)]
    assert scene.ring.take_used() == used


def test_an_index_that_jumps_breaks_the_queue(scene: Scene) -> None:
    """2.7.6.1; what was done before it stays done."""
    head = scene.read()
    scene.device.cycle([])
    scene.ring.put_avail_index(1000)

    with pytest.raises(RingBroken):
        scene.run()
    assert scene.ring.take_used() == [(head, SECTOR + 1)]
    assert scene.device.rest() == []


@pytest.fixture
def shrinking() -> Generator[tuple[Scene, int]]:
    """Have data in a file that its owner can truncate."""
    owner = os.memfd_create("guest")
    os.ftruncate(owner, PAGE)
    scene = Scene(data=Region.foreign(os.dup(owner), addr=DATA, size=PAGE))
    yield scene, owner
    scene.close()
    os.close(owner)


@pytest.mark.parametrize("kind", [IN, OUT])
def test_data_that_is_gone_is_left_to_the_handler(shrinking: tuple[Scene, int], kind: int) -> None:
    """Who then hears of it, as with any request."""
    scene, owner = shrinking
    header = scene.header(kind, 0)
    if kind == IN:
        head = scene.chain([header], [(DATA, SECTOR), (MORE, 1)])
    else:
        head = scene.chain([header, (DATA, SECTOR)], [(MORE, 1)])
    [token, _] = scene.device.cycle([])
    os.ftruncate(owner, 0)

    assert scene.run() is False
    assert scene.left() == [head]
    assert scene.ring.take_used() == []
    move = scene.device.read_file if kind == IN else scene.device.write_file
    with pytest.raises(MemoryGone):
        move(token, 0 if kind == IN else HEADER.size, scene.fd, 0, SECTOR)


def test_a_status_that_cannot_be_written_breaks_the_queue(shrinking: tuple[Scene, int]) -> None:
    scene, owner = shrinking
    scene.chain([scene.header(IN, 0)], [(MORE, SECTOR), (DATA, 1)])
    scene.device.cycle([])
    os.ftruncate(owner, 0)

    with pytest.raises(MemoryGone):
        scene.run()
    assert scene.ring.take_used() == []
    assert scene.device.statistics().broken == "gone"
