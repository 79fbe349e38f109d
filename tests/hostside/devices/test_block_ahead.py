"""Plain reads and writes, done in C before a handler is asked: which, and what they hold up."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, strategies as st

from paravirt.guestside import Driver
from paravirt.guestside.block import BlockDriver
from paravirt.hostside._loop import current_loop
from paravirt.hostside.devices.block import Block
from paravirt.transport.wire.block import HEADER, SECTOR, BlockStatus, BlockType
from tests.disks import always, attached, content, image, in_line
from tests.hostside import frontend
from tests.hostside.serving import by_hand, until

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from paravirt.hostside import Request
    from tests.hostside.serving import Hand

SECTORS = 64
CONTENT = b"".join(bytes([number]) * SECTOR for number in range(SECTORS))
OK = bytes([BlockStatus.OK])
IN, OUT, FLUSH = BlockType.IN, BlockType.OUT, BlockType.FLUSH
IMAGE = "paravirt.hostside.devices.block._image"
SLICE = 32
"""Requests that C does in one go."""


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file system on which nothing has to be waited for, whatever the tests' folder is."""
    monkeypatch.setattr(f"{IMAGE}.takes_nowait", always(False))
    monkeypatch.setattr(f"{IMAGE}.lives_in_memory", always(True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", CONTENT)


def read(sector: int, sectors: int = 1) -> tuple[bytes, int]:
    """Return a request for `Driver.request_many`."""
    return HEADER.pack(IN, sector), sectors * SECTOR + 1


def write(sector: int, data: bytes) -> tuple[bytes, int]:
    return HEADER.pack(OUT, sector) + data, 1


def sector(number: int) -> bytes:
    return CONTENT[number * SECTOR : (number + 1) * SECTOR]


def ahead(disk: Block) -> int:
    """Count the requests of its first queue that no handler saw."""
    return disk.statistics().queues[0].ahead


async def test_plain_requests_come_to_no_handler(path: Path) -> None:
    with Block(path) as disk:
        async with attached(disk, Driver) as driver:
            assert await driver.request(*read(3)) == sector(3) + OK
            assert await driver.request(*write(5, b"w" * SECTOR)) == OK
            assert await driver.request(*read(5)) == b"w" * SECTOR + OK
            assert ahead(disk) == 3
            [counts] = disk.statistics().queues

    assert (counts.requests, counts.completed, counts.in_flight) == (3, 3, 0)
    assert counts.calls + counts.suppressed == 3
    assert content(path)[5 * SECTOR : 6 * SECTOR] == b"w" * SECTOR


async def test_a_batch_longer_than_one_go_is_done_in_several(path: Path) -> None:
    with Block(path) as disk:
        async with attached(disk, Driver) as driver:
            replies = await driver.request_many([read(number) for number in range(SECTORS)])
            assert ahead(disk) == SECTORS > SLICE

    assert replies == [sector(number) + OK for number in range(SECTORS)]


async def test_what_comes_behind_another_request_is_handled_with_it(path: Path) -> None:
    """Up to the end of the batch; the next one begins anew."""
    flush = HEADER.pack(FLUSH, 0), 1
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, Driver) as driver:
            replies = await driver.request_many([read(1), read(2), flush, read(3), read(4)])
            assert ahead(disk) == 2
            await driver.request(*read(5))
            assert ahead(disk) == 3

    assert replies == [
        *(sector(number) + OK for number in (1, 2)),
        OK,
        sector(3) + OK,
        sector(4) + OK,
    ]


async def test_a_request_that_fails_is_told_by_its_handler(path: Path) -> None:
    with path.open("r+b") as file, Block(path, run_blocking=in_line) as disk:
        file.truncate(2 * SECTOR)
        async with attached(disk, Driver) as driver:
            good, bad, last = await driver.request_many([read(0), read(1, 2), read(1)])
            assert ahead(disk) == 1

    assert (good, last) == (sector(0) + OK, sector(1) + OK)
    assert bad[:SECTOR] == sector(1)
    assert bad[-1:] == bytes([BlockStatus.IOERR])
    assert disk.errors == {"EIO": 1}


async def test_a_handler_of_ones_own_gets_all_requests(path: Path) -> None:
    class Counting(Block):
        handled = 0

        def handle(self, request: Request) -> Awaitable[None] | None:
            self.handled += 1
            return super().handle(request)

    with Counting(path) as disk:
        async with attached(disk, Driver) as driver:
            await driver.request_many([read(1), write(1, bytes(SECTOR))])
            assert (disk.handled, ahead(disk)) == (2, 0)


async def test_a_read_only_disk_reads_ahead_and_writes_not(path: Path) -> None:
    """5.2.6.2: IOERR for a write."""
    with Block(path, read_only=True) as disk:
        async with attached(disk, Driver) as driver:
            replies = await driver.request_many([read(1), write(1, bytes(SECTOR))])
            assert ahead(disk) == 1

    assert replies == [sector(1) + OK, bytes([BlockStatus.IOERR])]
    assert content(path) == CONTENT


async def test_a_disk_that_may_move_is_locked_before_it_is_written(path: Path) -> None:
    with Block(path, migratable=True) as disk:
        async with attached(disk, Driver) as driver:
            assert await driver.request(*write(1, bytes(SECTOR))) == OK
            assert ahead(disk) == 0  # the handler locked it
            assert await driver.request(*write(2, bytes(SECTOR))) == OK
            assert ahead(disk) == 1


@pytest.mark.parametrize("writeback", [True, False])
async def test_a_write_that_has_to_be_stable_is_left_to_the_handler(
    path: Path, monkeypatch: pytest.MonkeyPatch, writeback: bool
) -> None:
    """5.2.6.2; on a storage that is not memory."""

    def flags_in_line(fd: int) -> tuple[int, int]:
        del fd
        return 0, os.RWF_SYNC  # in place of RWF_NOWAIT, which not every file system takes

    monkeypatch.setattr(f"{IMAGE}._flags_in_line", flags_in_line)
    with Block(path, writeback=writeback, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write(1, bytes(SECTOR))
            assert ahead(disk) == writeback


@pytest.mark.parametrize("commits", [0, 1])
async def test_what_was_written_ahead_is_committed_at_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fdatasync", synced.append)
    with Block(path) as disk:
        async with attached(disk, Driver) as driver:
            await driver.request_many([read(1), *[write(1, bytes(SECTOR))] * commits])
            assert ahead(disk) == 1 + commits

    assert len(synced) == commits


# What others see of it.


async def hurry() -> None:
    """Have each look at the clock find that the queue's share is used up."""
    current_loop().clock = itertools.count(0, 10**9).__next__


def offer_reads(hand: Hand, count: int) -> list[int]:
    """Add so many reads; returns where their replies will be."""
    return [hand.offer(HEADER.pack(IN, number % SECTORS), SECTOR + 1) for number in range(count)]


async def test_others_run_between_two_goes(path: Path) -> None:
    """A guest that always has more must not starve another."""
    with Block(path) as disk:
        async with by_hand(disk) as hand:
            await hurry()
            offer_reads(hand, 3 * SLICE)
            hand.show()
            seen: set[int] = set()
            while 3 * SLICE not in seen:
                await trio.lowlevel.checkpoint()
                seen.add(ahead(disk))

    assert seen & {SLICE, 2 * SLICE}  # trio may give one task two turns in a row, not three


async def test_reset_between_two_goes_ends_them(path: Path) -> None:
    """2.4.1: once it is done, no reply is written any more."""
    with Block(path) as disk:
        async with by_hand(disk) as hand:
            await hurry()
            replies = offer_reads(hand, 3 * SLICE)
            hand.show()
            await until(lambda: ahead(disk) >= SLICE)
            await hand.link.set_status(0)
            while await hand.link.get_status():
                pass
            for at in replies:
                hand.memory.write(at, b"?" * (SECTOR + 1))
            for _ in range(50):
                await trio.lowlevel.checkpoint()

            assert {hand.memory.read(at, SECTOR + 1) for at in replies} == {b"?" * (SECTOR + 1)}
        async with attached(disk, BlockDriver) as driver:
            assert await driver.read(2, SECTOR) == sector(2)


async def test_stop_between_two_goes_waits_for_what_was_taken(path: Path) -> None:
    """GET_VRING_BASE; the handler does the rest of it."""
    with Block(path) as disk:
        async with frontend.attached(disk, size=256) as front:
            await front.bring_up()
            await hurry()
            ring = front.queues[0].ring
            front.memory.write(frontend.DATA, HEADER.pack(IN, 1))
            for number in range(3 * SLICE):
                reply = frontend.DATA + 0x1000 + number * (SECTOR + 1)
                assert ring.add([(frontend.DATA, 16)], [(reply, SECTOR + 1)]) is not None
            ring.publish()
            front.queues[0].kick.ring()
            await until(lambda: ahead(disk) >= SLICE)

            assert await front.base() == 3 * SLICE
            assert len(ring.reap()) == 2 * 3 * SLICE
            replies = front.memory.read(frontend.DATA + 0x1000, 3 * SLICE * (SECTOR + 1))
            assert replies == 3 * SLICE * (sector(1) + OK)


# The same as its handler.


class Slow(Block):
    """Hands every request to the handler."""

    def ahead(self) -> None:
        return None


kinds = st.sampled_from([IN, OUT, IN, OUT, IN, OUT, FLUSH, BlockType.GET_ID, 99])
sizes = st.sampled_from([SECTOR, SECTOR, 2 * SECTOR, 8 * SECTOR, 0, 1, SECTOR - 1, 10 * SECTOR])
places = st.one_of(
    st.integers(0, SECTORS + 1),
    st.sampled_from([SECTORS - 1, (1 << 55) - 1, 1 << 55, (1 << 55) + 1, (1 << 64) - 1]),
)


Shape = tuple[int, int, int, int, int, int]
shapes = st.tuples(
    kinds,
    places,
    sizes,
    st.integers(1, 255),
    st.sampled_from([1, 1, 1, 1, 1, 0, 2]),
    st.sampled_from([0, 0, 0, 0, 0, 15, 16, 17]),
)


def make(shape: Shape) -> tuple[bytes, int]:
    """Return a request of which some bytes may be missing at the end, and its room for a reply."""
    kind, place, size, fill, room, cut = shape
    data = HEADER.pack(kind, place) + bytes([fill]) * (size if kind == OUT else 0)
    return data[: cut or None], room + (size if kind == IN else 0)


def told(shape: Shape, reply: bytes) -> tuple[int, bytes]:
    """Return what counts of a reply: not the bytes that nobody wrote, which are the driver's."""
    read = shape[0] == IN and reply.endswith(OK)
    return len(reply), reply if read else reply[-1:]


async def outcome(
    disk: Block, path: Path, batches: list[list[Shape]], length: int
) -> tuple[list[list[tuple[int, bytes]]], int, int]:
    """Send the batches to a disk whose file has lost its end; returns the replies, and counts."""
    with path.open("r+b") as file:
        file.truncate(length * SECTOR)
    async with attached(disk, Driver) as driver:
        replies: list[list[tuple[int, bytes]]] = []
        for batch in batches:
            came = await driver.request_many(map(make, batch))
            replies.append([told(*one) for one in zip(batch, came, strict=True)])
        [counts] = disk.statistics().queues
    return replies, counts.bytes_out, counts.ahead


@given(
    batches=st.lists(st.lists(shapes, min_size=1, max_size=40), min_size=1, max_size=3),
    length=st.sampled_from([SECTORS, SECTORS, SECTORS // 2]),
    read_only=st.booleans(),
)
def test_replies_and_image_are_those_that_the_handler_gives(
    batches: list[list[Shape]], length: int, read_only: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{IMAGE}.takes_nowait", always(False))
        patch.setattr(f"{IMAGE}.lives_in_memory", always(True))
        found: list[tuple[list[list[tuple[int, bytes]]], int, bytes, dict[str, int]]] = []
        counts: list[int] = []
        for kind in (Block, Slow):
            path = image(Path(folder, kind.__name__), CONTENT)
            with kind(path, read_only=read_only, run_blocking=in_line) as disk:
                replies, used, count = trio.run(outcome, disk, path, batches, length)
            found.append((replies, used, content(path), dict(disk.errors)))
            counts.append(count)

    assert found[0] == found[1]
    assert counts[1] == 0
    if batches[0][0][:3] == (IN, 0, SECTOR) and batches[0][0][4:] == (1, 0):
        assert counts[0] > 0
