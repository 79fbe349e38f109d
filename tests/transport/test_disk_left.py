"""Disk requests that C leaves to their handler: untouched, in hand, in order."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from paravirt.transport.wire.block import HEADER, SECTOR, BlockType

from .disk_scene import CONTENT, DATA, IN, MORE, OUT, SECTORS, Scene

if TYPE_CHECKING:
    from collections.abc import Generator

LONGEST = 128 << 10
READ_ONLY = 2
"""PV_REGION_READONLY."""


class Odd(NamedTuple):
    """A request that is not for C, and with which arguments of `run` that is so."""

    kind: int
    sector: int = 0
    data: int = SECTOR
    status: int = 1
    header: int = HEADER.size
    reads: int | None = 0
    writes: int | None = 0
    size: int = len(CONTENT)


ODD = {
    "flush": Odd(BlockType.FLUSH, data=0),
    "id": Odd(BlockType.GET_ID, data=20),
    "unknown type": Odd((1 << 32) - 1),
    "type of which a byte is that of a write": Odd(0x101),
    "read behind the end": Odd(IN, SECTORS),
    "read over the end": Odd(IN, SECTORS - 1, 2 * SECTOR),
    "write behind the end": Odd(OUT, SECTORS),
    "position of 2^64": Odd(IN, 1 << 55),
    "position of 2^63": Odd(OUT, 1 << 54),
    "last sector there can be": Odd(OUT, (1 << 64) - 1),
    "half a sector": Odd(IN, data=SECTOR // 2),
    "a byte too many to read": Odd(IN, data=SECTOR + 1),
    "a byte too few to write": Odd(OUT, data=SECTOR - 1),
    "nothing to read": Odd(IN, data=0),
    "nothing to write": Odd(OUT, data=0),
    "no room for a status to a read": Odd(IN, status=0),
    "no room for a status to a write": Odd(OUT, status=0),
    "half a header": Odd(IN, header=8),
    "no header": Odd(IN, header=0),
    "longer than is done in line": Odd(IN, data=LONGEST + SECTOR, size=1 << 20),
    "reads left alone": Odd(IN, reads=None),
    "read-only disk": Odd(OUT, writes=None),
    "disk of less than a sector": Odd(IN, size=SECTOR - 1),
    "disk of nothing": Odd(OUT, size=0),
}


@pytest.fixture
def scene() -> Generator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def offer(scene: Scene, odd: Odd) -> int:
    """Offer it with its data at `DATA`, in pieces that may be one memory."""
    addr, _ = scene.header(odd.kind, odd.sector, at=1)
    readable = [(addr, odd.header)] if odd.header else []
    data = [(DATA, min(SECTOR, odd.data - at)) for at in range(0, odd.data, SECTOR)]
    status = [(MORE, odd.status)] if odd.status else []
    if odd.kind == OUT:
        return scene.chain(readable + data, status)
    if odd.data > LONGEST:
        return scene.table(readable, data + status)
    return scene.chain(readable, data + status)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_is_not_plain_is_left_as_it_came(scene: Scene, odd: Odd) -> None:
    """With all that is behind it; what is before it is done, if it is plain by these arguments."""
    before = scene.read(1)
    left = [offer(scene, odd), scene.read(2)]
    scene.memory.write(MORE, b"?")
    tokens = scene.device.cycle([])[::2]
    plain = odd.reads is not None and odd.size >= 2 * SECTOR

    assert scene.run(reads=odd.reads, writes=odd.writes, size=odd.size) is False
    assert scene.left() == (left if plain else [before, *left])
    assert scene.ring.take_used() == ([(before, SECTOR + 1)] if plain else [])
    assert scene.memory.read(MORE, 1) == b"?"
    assert scene.file() == CONTENT
    assert not scene.disk.wrote
    assert [scene.device.written(token) for token in tokens[1:]] == [0, 0]
    scene.device.complete(tokens[1:] if plain else tokens)
    assert [head for head, _ in scene.ring.take_used()][-2:] == left


def test_heads_of_what_is_left_are_at_hand(scene: Scene) -> None:
    """As copied when they were taken: the driver may have changed its own since."""
    scene.read()
    addr, _ = scene.header(BlockType.FLUSH, 0, at=1)
    scene.chain([(addr, HEADER.size)], [(MORE, 1)])
    scene.device.cycle([])
    scene.memory.write(addr, HEADER.pack(OUT, 99))
    scene.run()

    assert scene.device.heads(1) == (HEADER.pack(BlockType.FLUSH, 0),)


def test_a_header_changed_after_it_was_taken_changes_nothing(scene: Scene) -> None:
    addr, size = scene.header(IN, 3)
    scene.chain([(addr, size)], [(DATA, SECTOR + 1)])
    scene.device.cycle([])
    scene.memory.write(addr, HEADER.pack(OUT, 1 << 60))
    scene.run()

    assert scene.memory.read(DATA, SECTOR) == CONTENT[3 * SECTOR : 4 * SECTOR]
    assert scene.file() == CONTENT


def test_a_short_header_is_not_filled_up_from_the_one_before(scene: Scene) -> None:
    """The copies lie in the same place, batch after batch."""
    scene.read(5)
    scene.device.cycle([])
    scene.run()
    scene.ring.take_used()
    addr, _ = scene.header(IN, 5)
    short = scene.chain([(addr, 8)], [(DATA, SECTOR + 1)])
    scene.device.cycle([])

    assert scene.run() is False
    assert scene.left() == [short]


def test_a_status_where_nobody_may_write_is_left_to_the_handler(scene: Scene) -> None:
    """A region that is mapped read-only."""
    rows = scene.memory.table.c.regions
    next(row for row in rows[0 : scene.memory.table.c.count] if row.addr == MORE).flags |= READ_ONLY
    head = offer(scene, Odd(IN))
    scene.device.cycle([])

    assert scene.run() is False
    assert scene.left() == [head]
    assert scene.ring.take_used() == []


# A file that fails.


def test_a_file_that_became_shorter_is_left_to_the_handler(scene: Scene) -> None:
    """5.2.6: no status until all of the data is there."""
    os.ftruncate(scene.fd, 3 * SECTOR)
    head = scene.chain([scene.header(IN, 2)], [(DATA, 2 * SECTOR), (MORE, 1)])
    scene.memory.write(MORE, b"?")
    [token, _] = scene.device.cycle([])

    assert scene.run() is False
    assert scene.left() == [head]
    assert scene.memory.read(MORE, 1) == b"?"
    assert scene.device.written(token) == SECTOR  # the part that was there


@pytest.mark.parametrize("kind", [IN, OUT])
def test_a_file_that_cannot_be_used_is_left_to_the_handler(scene: Scene, kind: int) -> None:
    head = offer(scene, Odd(kind))
    scene.device.cycle([])

    assert scene.run(fd=-1) is False
    assert scene.left() == [head]
    assert scene.ring.take_used() == []
    assert scene.disk.wrote is (kind == OUT)


def test_a_disk_that_is_full_is_left_to_the_handler(scene: Scene) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    head = offer(scene, Odd(OUT))
    scene.device.cycle([])

    assert scene.run(fd=full) is False
    assert scene.left() == [head]
    os.close(full)


@contextmanager
def longest_file(size: int) -> Generator[None]:
    """Let no file of this process grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_write_done_in_part_is_done_again_from_its_beginning(scene: Scene) -> None:
    """The kernel takes the first of two sectors. The data may have changed by the second time."""
    head = scene.chain([scene.header(OUT, 7), (DATA, 2 * SECTOR)], [(MORE, 1)])
    scene.memory.write(DATA, b"1" * 2 * SECTOR)
    [token, _] = scene.device.cycle([])
    with longest_file(8 * SECTOR):
        ran = scene.run()
    part = scene.file()
    scene.memory.write(DATA, b"2" * 2 * SECTOR)
    again = scene.device.write_file(token, HEADER.size, scene.fd, 7 * SECTOR, 2 * SECTOR)

    assert (ran, scene.left(), scene.ring.take_used()) == (False, [head], [])
    assert scene.disk.wrote
    assert part == CONTENT[: 7 * SECTOR] + b"1" * SECTOR + CONTENT[8 * SECTOR :]
    assert again == 2 * SECTOR
    assert scene.file() == CONTENT[: 7 * SECTOR] + b"2" * 2 * SECTOR + CONTENT[9 * SECTOR :]


@pytest.mark.parametrize("kind", [IN, OUT])
def test_flags_that_the_file_refuses_leave_it_to_the_handler(scene: Scene, kind: int) -> None:
    """As ext4 does with RWF_NOWAIT for a write; no file knows this one."""
    head = offer(scene, Odd(kind))
    scene.device.cycle([])

    assert scene.run(reads=1 << 20, writes=1 << 20) is False
    assert scene.left() == [head]
    assert scene.file() == CONTENT
