"""What a run of disk requests in C tells other backends: dirty pages, and what is in hand."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from paravirt.transport import DeviceRing, Memory, MemoryGone, Region, RingGeometry
from paravirt.transport.disk import PlainDisk
from paravirt.transport.inflight import InflightFile
from paravirt.transport.wire.block import HEADER, SECTOR, BlockType

from .hand_ring import NEXT, WRITE, HandRing
from .logged_ring import DATA, PAGE, LoggedRing, pages, used_entry

if TYPE_CHECKING:
    from collections.abc import Generator

IN, OUT, FLUSH = BlockType.IN, BlockType.OUT, BlockType.FLUSH
CONTENT = bytes(range(256)) * 64
SIZE = 8


@pytest.fixture
def fd() -> Generator[int]:
    fd = os.memfd_create("disk")
    os.write(fd, CONTENT)
    yield fd
    os.close(fd)


def offer(ring: HandRing, kind: int, number: int, data: int) -> int:
    """Offer the request number so and so, with its data at an address; returns its head."""
    header, status, head = DATA + HEADER.size * number, DATA + 1024 + number, 3 * number
    ring.memory.write(header, HEADER.pack(kind, 0))
    ring.desc(head, header, HEADER.size, NEXT, head + 1)
    ring.desc(head + 1, data, SECTOR, NEXT | (WRITE if kind == IN else 0), head + 2)
    ring.desc(head + 2, status, 1, WRITE)
    ring.offer(head)
    return head


def run(device: DeviceRing, fd: int) -> None:
    """Have a disk do all that it can."""
    disk = PlainDisk()
    while disk.run(device, fd, len(CONTENT), 0, 0, 0):
        pass


# The dirty log.


@pytest.fixture
def logged() -> Generator[LoggedRing]:
    logged = LoggedRing()
    logged.device.peek(HEADER.size)
    yield logged
    logged.close()


def test_each_page_written_is_marked_and_no_other(logged: LoggedRing, fd: int) -> None:
    """The data of a read, the status, and the used ring; a write is only read from the guest."""
    border = DATA + 4 * PAGE - 100
    offer(logged.driver, IN, 0, border)
    offer(logged.driver, OUT, 1, DATA + 6 * PAGE)
    logged.device.cycle([])

    expected = pages(border, SECTOR) | pages(DATA, PAGE) | used_entry(0) | used_entry(1)
    with logged.marks(expected):
        run(logged.device, fd)


def test_later_batches_of_a_run_are_marked_too(logged: LoggedRing, fd: int) -> None:
    offer(logged.driver, IN, 0, DATA + 2 * PAGE)
    logged.device.cycle([])
    offer(logged.driver, IN, 1, DATA + 5 * PAGE)

    expected = pages(DATA + 2 * PAGE, SECTOR) | pages(DATA + 5 * PAGE, SECTOR)
    expected |= pages(DATA, PAGE) | used_entry(0) | used_entry(1)
    with logged.marks(expected):
        run(logged.device, fd)


def test_a_read_done_in_part_is_marked(logged: LoggedRing, fd: int) -> None:
    offer(logged.driver, IN, 0, DATA + 3 * PAGE - 100)
    logged.device.cycle([])
    os.ftruncate(fd, 50)

    with logged.marks(pages(DATA + 2 * PAGE, 1)):
        run(logged.device, fd)


def test_a_log_truncated_in_use_is_left_to_the_handler(logged: LoggedRing, fd: int) -> None:
    """A page that is not marked would be lost on the way."""
    offer(logged.driver, IN, 0, DATA + PAGE)
    logged.device.cycle([])
    os.ftruncate(logged.file, 0)

    run(logged.device, fd)

    assert logged.driver.take_used() == []
    [token, _] = logged.device.rest()
    with pytest.raises(MemoryGone):
        logged.device.read_file(token, 0, fd, 0, SECTOR)


# The inflight table.


class Tracked:
    """A queue with an inflight table, and another backend that may take it up."""

    def __init__(self) -> None:
        geometry = RingGeometry.contiguous(SIZE, 0)
        self.geometry = geometry
        self.memory = Memory([Region.create(PAGE, addr=0), Region.create(4 * PAGE, addr=DATA)])
        self.file = InflightFile.create(1, SIZE)
        self.driver = HandRing(self.memory, geometry)
        self.device = self.take_up()

    def take_up(self) -> DeviceRing:
        avail, used = (
            int.from_bytes(self.memory.read(at + 2, 2), "little")
            for at in (self.geometry.driver, self.geometry.device)
        )
        table = self.file.take_up(0, SIZE, avail=avail, used=used)
        index = table.used
        device = DeviceRing(self.memory, self.geometry, avail=index, used=index, inflight=table)
        device.peek(HEADER.size)
        return device

    def close(self) -> None:
        self.file.close()
        self.memory.close()


@pytest.fixture
def tracked() -> Generator[Tracked]:
    tracked = Tracked()
    yield tracked
    tracked.close()


def test_nothing_that_is_over_is_taken_up_again(tracked: Tracked, fd: int) -> None:
    heads = [offer(tracked.driver, IN, number, DATA + PAGE) for number in range(2)]
    tracked.device.cycle([])
    run(tracked.device, fd)

    assert [head for head, _ in tracked.driver.take_used()] == heads
    assert tracked.take_up().left_behind == 0


def test_what_a_run_leaves_is_taken_up_in_its_order(tracked: Tracked, fd: int) -> None:
    """Killed before the handler is done with it."""
    done = offer(tracked.driver, IN, 0, DATA + PAGE)
    left = [offer(tracked.driver, FLUSH, 1, DATA + PAGE)]
    tracked.device.cycle([])
    run(tracked.device, fd)
    assert tracked.device.in_hand() == left
    following = tracked.take_up()

    assert tracked.driver.take_used() == [(done, SECTOR + 1)]
    assert following.left_behind == 1
    assert [token & 0xFFFF for token in following.cycle([])[::2]] == left


def test_what_was_taken_up_is_carried_out_once(tracked: Tracked, fd: int) -> None:
    heads = [offer(tracked.driver, OUT, number, DATA + PAGE * (number + 1)) for number in range(2)]
    for number in range(2):
        tracked.memory.write(DATA + PAGE * (number + 1), b"ab"[number : number + 1] * SECTOR)
    tracked.device.cycle([])  # and then it is killed
    following = tracked.take_up()
    while following.cycle([]) or following.left_behind:
        run(following, fd)

    assert [head for head, _ in tracked.driver.take_used()] == heads
    assert os.pread(fd, SECTOR, 0) == b"b" * SECTOR  # the last one, as the driver had them
    assert following.statistics().ahead == 2
