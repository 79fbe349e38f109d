"""How much a device's end takes at once: room for private copies, and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.transport._device_ring import DeviceRing
from paravirt.transport._features import Feature
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._memory import Memory
from paravirt.transport._region import Region

from .hand_ring import NEXT, HandRing, descriptor

if TYPE_CHECKING:
    from collections.abc import Generator

DATA, TABLES = 0x800000, 0x1000000
SIZE = 64


class Queue:
    """A hand-made ring of any size, with one indirect table of any length."""

    def __init__(self, size: int, region: Region) -> None:
        self.memory = Memory([region])
        geometry = RingGeometry.contiguous(size, 0, Feature.RING_INDIRECT_DESC)
        self.ring = HandRing(self.memory, geometry)
        self.device = DeviceRing(self.memory, geometry)

    def write_table(self, buffers: int) -> None:
        """Write a table of so many buffers of one byte."""
        rows = [descriptor(DATA, 1, NEXT, index + 1) for index in range(buffers - 1)]
        self.memory.write(TABLES, b"".join([*rows, descriptor(DATA, 1)]))

    def offer_tables(self, heads: range, buffers: int) -> None:
        """Offer chains that consist of the table's first entries."""
        self.write_table(buffers)
        for head in heads:
            self.ring.desc(head, TABLES, 16 * buffers, 4)
        self.ring.offer(*heads)

    def take(self) -> list[int]:
        """Return the tokens of what can be taken."""
        return self.device.cycle([], [])[::2]

    def give_back(self, tokens: list[int]) -> None:
        self.device.complete(tokens, [0] * len(tokens))


@pytest.fixture
def region() -> Generator[Region]:
    with Region.create(TABLES + (1 << 21), addr=0) as region:
        yield region


def test_long_chains_are_taken_as_long_as_there_is_room(region: Region) -> None:
    """There is room for 16 chains that are as long as the queue."""
    queue = Queue(SIZE, region)
    queue.offer_tables(range(20), SIZE)

    assert len(queue.take()) == 16
    assert queue.device.stalled
    assert queue.take() == []
    assert queue.device.pending()


def test_short_chains_fill_the_queue(region: Region) -> None:
    queue = Queue(SIZE, region)
    queue.offer_tables(range(SIZE), 16)

    assert len(queue.take()) == SIZE
    assert not queue.device.stalled


def test_a_chain_that_waits_for_room_is_taken_when_it_came_back(region: Region) -> None:
    """In its turn, unharmed; what came after it waits with it."""
    queue = Queue(SIZE, region)
    queue.offer_tables(range(17), SIZE)
    taken = queue.take()
    queue.offer_tables(range(17, 20), SIZE)
    queue.give_back(taken)
    rest = [token for _ in range(2) for token in queue.take()]

    assert [token & 0xFFFF for token in taken + rest] == list(range(20))
    assert not queue.device.stalled
    assert [queue.device.read(token, 0, 100) for token in rest] == [bytes(SIZE)] * 4


def test_a_chain_that_waits_is_not_tried_again_before_there_is_much_more_room(
    region: Region,
) -> None:
    """A walk in vain is not to be had for each short chain that comes back."""
    queue = Queue(SIZE, region)
    queue.offer_tables(range(15), SIZE)
    long = queue.take()
    queue.offer_tables(range(15, 47), 1)
    short = queue.take()  # room for 32 buffers is left
    queue.offer_tables(range(47, 48), 40)
    assert queue.take() == []
    queue.give_back(short[:31])

    assert queue.take() == []
    queue.give_back(long[:1])
    assert len(queue.take()) == 1


@pytest.mark.parametrize("size", [1, 2, 256, 2048, 32768])
def test_the_longest_chain_fits_when_nothing_is_in_flight(region: Region, size: int) -> None:
    """All of the ring, its last descriptor naming a table as long as the ring (2.7.5.3.2)."""
    queue = Queue(size, region)
    rows = [descriptor(DATA, 1, NEXT, index + 1) for index in range(size - 1)]
    table = descriptor(TABLES, 16 * size, 4)
    queue.memory.write(queue.ring.geometry.desc, b"".join([*rows, table]))
    queue.write_table(size)
    queue.ring.offer(0)
    [token] = queue.take()

    assert len(queue.device.read(token, 0, 1 << 20)) == 2 * size - 1


@pytest.mark.parametrize("size", [2048, 32768])
def test_a_long_queue_is_not_served_one_by_one(region: Region, size: int) -> None:
    """Where the room is for one chain of the longest kind, there is room for many short ones."""
    queue = Queue(size, region)
    queue.offer_tables(range(512), 4)
    tokens = queue.take() + queue.take()

    assert len(tokens) == 512
    assert not queue.device.stalled


@pytest.mark.parametrize("bad", [True, False])
def test_chains_that_need_no_room_do_not_hold_the_server_for_long(
    region: Region, bad: bool
) -> None:
    """Loops and empty buffers: 65536 descriptors end a turn, the rest is for the next ones."""
    size = 32768
    queue = Queue(size, region)
    rows = [descriptor(0, 0, NEXT, (index + 1) % size) for index in range(size)]
    rows[-1] = rows[-1] if bad else descriptor(0, 0)
    queue.memory.write(queue.ring.geometry.desc, b"".join(rows))
    queue.ring.offer(*range(10))
    first = len(queue.take())

    assert queue.device.indices[0] in (2, 3)  # a chain from head 1 on is one descriptor shorter
    assert queue.device.pending()
    while queue.device.pending():
        first += len(queue.take())
    assert first == (0 if bad else 10)
