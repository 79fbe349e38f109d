"""Memory that changes under the device: nothing is read twice, and nothing is believed for long.

The ids carry the clause, where there is one: virtio has none about memory that vanishes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from paravirt.transport._device_ring import DeviceRing
from paravirt.transport._errors import Cause, MemoryGone
from paravirt.transport._features import Feature
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._memory import Memory
from paravirt.transport._region import Region

from .fenced import PAGE
from .hand_ring import INDIRECT, NEXT, WRITE, HandRing, descriptor
from .ring_scene import DATA, HOLE, RINGS, Scene, clause, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

FEATURES = Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX
TABLE, OUT = DATA + 0x800, DATA + 0x400

# What a driver may make of a descriptor after it was taken, in place of 4 bytes at DATA.
EDITS = [
    pytest.param(descriptor(HOLE, 4, NEXT, 1), id="2.7.13.1-address"),
    pytest.param(descriptor(DATA + 64, 4, NEXT, 1), id="2.7.13.1-another-address"),
    pytest.param(descriptor(DATA, 0xFFFFFFFF, NEXT, 1), id="2.7.13.1-length"),
    pytest.param(descriptor(DATA, 0, NEXT, 1), id="2.7.13.1-no-length"),
    pytest.param(descriptor(DATA, 4, WRITE | NEXT, 1), id="2.7.13.1-direction"),
    pytest.param(descriptor(DATA, 4, NEXT, 65535), id="2.7.13.1-next"),
    pytest.param(descriptor(DATA, 4), id="2.7.13.1-end-of-chain"),
    pytest.param(descriptor(HOLE, 0xFFFFFFF0, INDIRECT, 1), id="2.7.13.1-indirect"),
]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("table", [False, True], ids=["direct", "indirect"])
def test_malformed_edit_of_a_chain_in_flight_has_no_effect(table: bool, edit: bytes) -> None:
    scene = Scene()
    scene.memory.write(DATA, b"data")
    rows = [descriptor(DATA, 4, NEXT, 1), descriptor(OUT, 8, WRITE)]
    where = TABLE if table else scene.ring.geometry.desc
    scene.memory.write(where, b"".join(rows))
    if table:
        scene.ring.desc(0, TABLE, 32, INDIRECT)
    scene.ring.offer(0)
    token, sizes = scene.device.cycle([], [])
    scene.memory.write(where, edit * 2)

    assert sizes == 4 << 32 | 8
    assert scene.device.read(token, 0, 100) == b"data"
    assert scene.device.write(token, 0, b"x" * 100) == 8
    assert scene.memory.read(OUT - 1, 10) == b"\0" + b"x" * 8 + b"\0"
    scene.device.complete([token], [8])
    assert scene.ring.take_used() == [(0, 8)]


@clause("2.7.13.1")
def test_malformed_edit_of_the_available_ring_has_no_effect_on_what_was_taken() -> None:
    scene = Scene()
    for head in range(8):
        scene.ring.desc(head, DATA, head)
    scene.ring.offer(3)
    token, _ = scene.device.cycle([], [])
    scene.ring.words.put(scene.ring.words.avail_entry(0), 5)
    scene.device.complete([token], [0])

    assert scene.ring.take_used() == [(3, 0)]


@contextlib.contextmanager
def flipping(region: Region, addr: int, *values: bytes) -> Generator[None]:
    """Let another thread write the values to an address in turn, as fast as it can."""
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            for value in values:  # each call is made without the interpreter lock
                os.pwrite(region.fd, value, addr - region.addr)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


GOOD = descriptor(DATA, 16, NEXT, 1)
TABLE_OF_ONE = descriptor(TABLE, 16, INDIRECT)


@pytest.mark.parametrize(
    ("good", "bad", "cause"),
    [
        pytest.param(GOOD, descriptor(HOLE, 16, NEXT, 1), Cause.ADDRESS, id="address"),
        pytest.param(GOOD, descriptor(DATA, 0xFFFFFFFF, NEXT, 1), Cause.ADDRESS, id="length"),
        pytest.param(GOOD, descriptor(DATA, 16, NEXT, 0xFF01), Cause.NEXT_RANGE, id="next"),
        pytest.param(
            TABLE_OF_ONE,
            descriptor(TABLE, 0xFFF0, INDIRECT),
            Cause.INDIRECT_SIZE,
            id="table-length",
        ),
        pytest.param(
            TABLE_OF_ONE, descriptor(TABLE, 16, 5, 1), Cause.INDIRECT_NEXT, id="table-flags"
        ),
    ],
)
@clause("2.7.13.1")
def test_malformed_descriptor_that_flips_while_it_is_taken_is_one_or_the_other(
    good: bytes, bad: bytes, cause: Cause
) -> None:
    """Each of both is seen, and what was checked is what is used."""
    with Region.create(4 * PAGE, addr=RINGS) as rings, Region.create(PAGE, addr=DATA) as data:
        memory = Memory([rings, data])
        ring = HandRing(memory, RingGeometry.contiguous(8, RINGS, FEATURES))
        device = DeviceRing(memory, ring.geometry)
        memory.write(DATA, bytes(range(256)) * 16)
        memory.write(TABLE, descriptor(DATA, 16))
        ring.desc(1, DATA, 0)
        taken = 0
        with flipping(rings, ring.geometry.desc, good, bad):
            while taken < 100 or device.statistics().rejected.get(cause.name.lower(), 0) < 100:
                ring.offer(0)
                for token, sizes in zip(*[iter(device.cycle([], []))] * 2, strict=True):
                    size = sizes >> 32
                    assert device.read(token, 0, 1 << 20) == (bytes(range(256)) * 16)[:size]
                    device.complete([token], [0])
                    taken += 1

        assert device.statistics().broken is None


class Shrinking:
    """A guest whose rings and data lie in two files that it can shrink."""

    def __init__(self) -> None:
        self.rings = self._file(2 * PAGE, RINGS)
        self.data = self._file(2 * PAGE, DATA)
        self.memory = Memory([self.rings, self.data])
        self.ring = HandRing(self.memory, RingGeometry.contiguous(8, RINGS, FEATURES))
        self.other = HandRing(self.memory, RingGeometry.contiguous(8, RINGS + PAGE, FEATURES))
        self.device = DeviceRing(self.memory, self.ring.geometry)
        self.other_device = DeviceRing(self.memory, self.other.geometry)

    @staticmethod
    def _file(size: int, addr: int) -> Region:
        fd = os.memfd_create("test")
        os.ftruncate(fd, size)
        return Region.foreign(fd, addr=addr, size=size)

    def offer(self, ring: HandRing, *rows: tuple[int, int, int, int]) -> None:
        for index, row in enumerate(rows):
            ring.desc(index, *row)
        ring.offer(0)


def test_malformed_memory_without_its_ring_breaks_the_queue() -> None:
    guest = Shrinking()
    guest.offer(guest.ring, (DATA, 4, 0, 0))
    token, _ = guest.device.cycle([], [])
    os.ftruncate(guest.rings.fd, 0)

    for _ in range(2):
        with pytest.raises(MemoryGone):
            guest.device.cycle([token], [0])
    assert guest.device.pending()
    assert guest.device.arm()
    assert guest.device.spin(10**9)
    guest.device.disarm()
    assert not guest.device.complete([token], [0])
    assert guest.device.statistics().rejected == counted(Cause.GONE)
    assert guest.device.statistics().broken == "gone"


def complete_nothing(device: DeviceRing) -> None:
    device.complete([], [])


@pytest.mark.parametrize(
    "notice",
    [
        pytest.param(DeviceRing.pending, id="pending"),
        pytest.param(DeviceRing.arm, id="arm"),
        pytest.param(DeviceRing.disarm, id="disarm"),
        pytest.param(complete_nothing, id="complete"),
    ],
)
def test_malformed_memory_without_its_ring_is_told_by_the_next_turn(
    notice: Callable[[DeviceRing], object],
) -> None:
    """Whoever notices it first, who waits is woken, and the server hears of it by `cycle`."""
    guest = Shrinking()
    os.ftruncate(guest.rings.fd, 0)
    notice(guest.device)

    assert guest.device.pending()
    with pytest.raises(MemoryGone):
        guest.device.cycle([], [])


def test_malformed_memory_without_its_data_is_told_to_who_copies() -> None:
    guest = Shrinking()
    guest.offer(guest.ring, (DATA, 4, NEXT, 1), (DATA + 8, 4, WRITE, 0))
    token, _ = guest.device.cycle([], [])
    os.ftruncate(guest.data.fd, 0)

    with pytest.raises(MemoryGone):
        guest.device.read(token, 0, 4)
    with pytest.raises(MemoryGone):
        guest.device.write(token, 0, b"data")
    with pytest.raises(MemoryGone):
        guest.device.cycle([token], [4])


@pytest.mark.parametrize("end", ["read", "write"])
def test_malformed_memory_without_its_data_is_told_to_who_moves_a_file(end: str) -> None:
    guest = Shrinking()
    guest.offer(guest.ring, (DATA, 4, NEXT, 1), (DATA + 8, 4, WRITE, 0))
    token, _ = guest.device.cycle([], [])
    os.ftruncate(guest.data.fd, 0)
    fd = os.memfd_create("file")
    os.write(fd, b"content")
    move = guest.device.read_file if end == "read" else guest.device.write_file

    with pytest.raises(MemoryGone):
        move(token, 0, fd, 0, 4)
    os.close(fd)


def test_malformed_memory_without_a_table_breaks_the_queue() -> None:
    guest = Shrinking()
    guest.offer(guest.ring, (DATA, 16, INDIRECT, 0))
    os.ftruncate(guest.data.fd, 0)

    with pytest.raises(MemoryGone):
        guest.device.cycle([], [])


def test_malformed_memory_cut_behind_a_ring_leaves_that_queue_alone() -> None:
    """The page of the first ring is still there, and so is the page of the data."""
    guest = Shrinking()
    os.ftruncate(guest.rings.fd, PAGE)
    os.ftruncate(guest.data.fd, PAGE)
    with pytest.raises(MemoryGone):
        guest.other_device.cycle([], [])
    guest.offer(guest.ring, (DATA, 4, 0, 0))
    token, _ = guest.device.cycle([], [])

    assert guest.device.read(token, 0, 4) == bytes(4)
    assert guest.device.complete([token], [0])
    assert guest.ring.take_used() == [(0, 0)]
