"""Chains that break a rule: each goes back with length 0, is counted, and the queue goes on.

The ids carry the clause. No access leaves guest memory, or a fence would end the test run.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paravirt.transport._device_ring import DeviceRing
from paravirt.transport._errors import Cause
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._memory import Memory
from paravirt.transport._region import Region

from .fenced import PAGE, fenced_region
from .hand_ring import INDIRECT, NEXT, WRITE, HandRing, descriptor
from .ring_scene import BAR, DATA, END, EVENT_IDX, HOLE, INDIRECT_DESC, TOP, Scene, clause, counted

Spoil = Callable[[HandRing], None]
SIZE = 8
TABLE = DATA + 0x800


def direct(*rows: tuple[int, int, int, int]) -> Spoil:
    """Write rows into the descriptor table from 0 on."""

    def spoil(ring: HandRing) -> None:
        for index, row in enumerate(rows):
            ring.desc(index, *row)

    return spoil


def indirect(*rows: tuple[int, int, int, int], addr: int = TABLE) -> Spoil:
    """Write rows into an indirect table that descriptor 0 refers to."""

    def spoil(ring: HandRing) -> None:
        ring.table(addr, *(descriptor(*row) for row in rows))

    return spoil


def direct_then_indirect(
    first: tuple[int, int, int, int], *rows: tuple[int, int, int, int]
) -> Spoil:
    """Write one direct descriptor, and one behind it that refers to a table."""

    def spoil(ring: HandRing) -> None:
        ring.desc(0, *first)
        ring.table(TABLE, *(descriptor(*row) for row in rows), at=first[3])

    return spoil


def loop(length: int, buffer: int = 16) -> list[tuple[int, int, int, int]]:
    """Return descriptors of which the last leads back to the first."""
    return [(DATA, buffer, NEXT, (index + 1) % length) for index in range(length)]


GOOD = (DATA, 16, NEXT, 1)
LAST = (DATA, 16, 0, 0)

CASES: list[tuple[str, Cause, Spoil]] = [
    ("2.7.5-next-is-the-queue-size", Cause.NEXT_RANGE, direct((DATA, 16, NEXT, SIZE))),
    ("2.7.5-next-is-65535", Cause.NEXT_RANGE, direct((DATA, 16, NEXT, 65535))),
    ("2.7.5-next-behind-the-table", Cause.NEXT_RANGE, indirect(GOOD, (DATA, 16, NEXT, 2))),
    (
        "2.7.5-last-of-the-queue-goes-on",
        Cause.NEXT_RANGE,
        direct(*loop(SIZE)[:-1], (DATA, 16, 1, 8)),
    ),
    ("2.7.5.3.1-loop-of-one", Cause.CHAIN_LENGTH, direct(*loop(1))),
    ("2.7.5.3.1-loop-of-two", Cause.CHAIN_LENGTH, direct(*loop(2))),
    ("2.7.5.3.1-chain-longer-than-the-queue", Cause.CHAIN_LENGTH, direct(*loop(SIZE))),
    ("2.7.5.3.1-loop-of-empty-buffers", Cause.CHAIN_LENGTH, direct(*loop(2, buffer=0))),
    ("2.7.5.3.1-loop-in-a-table", Cause.CHAIN_LENGTH, indirect(*loop(2), LAST)),
    (
        "2.7.5.3.1-loop-of-empty-buffers-in-a-table",
        Cause.CHAIN_LENGTH,
        indirect(*loop(1, buffer=0)),
    ),
    (
        "2.7.5.3.1-loop-in-a-table-behind-a-descriptor",
        Cause.CHAIN_LENGTH,
        direct_then_indirect(GOOD, *loop(3)),
    ),
    (
        "2.7.5.3.1-indirect-inside-indirect",
        Cause.INDIRECT_NESTED,
        indirect(GOOD, (TABLE, 32, INDIRECT, 0)),
    ),
    (
        "2.7.5.3.1-indirect-inside-indirect-at-once",
        Cause.INDIRECT_NESTED,
        indirect((TABLE, 16, INDIRECT, 0)),
    ),
    (
        "2.7.5.3.1-indirect-and-next",
        Cause.INDIRECT_NEXT,
        direct((TABLE, 16, INDIRECT | NEXT, 1), LAST),
    ),
    (
        "2.7.5.3.1-two-indirect-in-one-chain",
        Cause.INDIRECT_NEXT,
        direct((TABLE, 16, INDIRECT | NEXT, 1), (TABLE, 16, INDIRECT, 0)),
    ),
    ("2.7.5.3-table-of-length-0", Cause.INDIRECT_LENGTH, direct((TABLE, 0, INDIRECT, 0))),
    ("2.7.5.3-table-of-length-15", Cause.INDIRECT_LENGTH, direct((TABLE, 15, INDIRECT, 0))),
    ("2.7.5.3-table-of-length-17", Cause.INDIRECT_LENGTH, direct((TABLE, 17, INDIRECT, 0))),
    (
        "2.7.5.3.1-table-longer-than-the-queue",
        Cause.INDIRECT_SIZE,
        direct((TABLE, 16 * (SIZE + 1), INDIRECT, 0)),
    ),
    (
        "2.7.5.3.1-table-as-long-as-can-be",
        Cause.INDIRECT_SIZE,
        direct((TABLE, 0xFFFFFFF0, INDIRECT, 0)),
    ),
    ("2.7.5-buffer-in-a-hole", Cause.ADDRESS, direct((HOLE, 1, 0, 0))),
    ("2.7.5-writable-buffer-in-a-hole", Cause.ADDRESS, direct((HOLE, 1, WRITE, 0))),
    ("2.7.5-second-buffer-in-a-hole", Cause.ADDRESS, direct(GOOD, (HOLE, 1, 0, 0))),
    ("2.7.5-buffer-at-address-0", Cause.ADDRESS, direct((0, 16, 0, 0))),
    ("2.7.5-buffer-in-a-pci-bar", Cause.ADDRESS, direct((BAR, 4, WRITE, 0))),
    ("2.7.5-buffer-begins-before-memory", Cause.ADDRESS, direct((DATA - 1, 16, 0, 0))),
    ("2.7.5-buffer-ends-behind-memory", Cause.ADDRESS, direct((END - 15, 16, WRITE, 0))),
    ("2.7.5-buffer-of-2^32-1-bytes", Cause.ADDRESS, direct((DATA, 0xFFFFFFFF, 0, 0))),
    ("2.7.5-buffer-wraps-at-2^64", Cause.ADDRESS, direct((TOP + PAGE - 8, 16, 0, 0))),
    ("2.7.5-buffer-wraps-into-memory", Cause.ADDRESS, direct((TOP, 0xFFFFFFFF, WRITE, 0))),
    ("2.7.5-buffer-of-a-table-in-a-hole", Cause.ADDRESS, indirect(GOOD, (HOLE, 1, 0, 0))),
    ("2.7.5.3-table-in-a-hole", Cause.ADDRESS, direct((HOLE, 16, INDIRECT, 0))),
    ("2.7.5.3-table-begins-before-memory", Cause.ADDRESS, direct((DATA - 8, 16, INDIRECT, 0))),
    ("2.7.5.3-table-ends-inside-an-entry", Cause.ADDRESS, direct((END - 8, 16, INDIRECT, 0))),
    ("2.7.5.3-table-goes-on-at-2^64", Cause.ADDRESS, direct((TOP + PAGE - 64, 80, INDIRECT, 0))),
    ("2.7.5.3-table-wraps-at-2^64", Cause.ADDRESS, direct((TOP + PAGE - 8, 32, INDIRECT, 0))),
    (
        "2.7.4.2-readable-after-writable",
        Cause.ORDER,
        direct((DATA, 16, WRITE | NEXT, 1), LAST),
    ),
    (
        "2.7.4.2-readable-after-writable-in-a-table",
        Cause.ORDER,
        indirect((DATA, 16, WRITE | NEXT, 1), LAST),
    ),
    (
        "2.7.4.2-readable-table-after-writable",
        Cause.ORDER,
        direct_then_indirect((DATA, 16, WRITE | NEXT, 1), LAST),
    ),
]
each_case = pytest.mark.parametrize(
    ("cause", "spoil"), [pytest.param(cause, spoil, id=name) for name, cause, spoil in CASES]
)


@each_case
def test_malformed_chain_goes_back_with_length_0(cause: Cause, spoil: Spoil) -> None:
    scene = Scene(SIZE)
    spoil(scene.ring)
    scene.ring.offer(0)
    before = scene.all_but_used()

    assert scene.device.cycle([], []) == []
    assert scene.ring.take_used() == [(0, 0)]
    assert scene.rejected() == counted(cause)
    assert scene.device.statistics().broken is None
    assert scene.all_but_used() == before
    scene.assert_serves()
    scene.assert_other_serves()


@each_case
def test_malformed_chain_leaves_nothing_behind(cause: Cause, spoil: Spoil) -> None:
    """The private copies of its good buffers come back: it may be sent for ever."""
    scene = Scene(SIZE)
    spoil(scene.ring)
    for _ in range(200):
        scene.ring.offer(0)
        scene.device.cycle([], [])

    assert scene.rejected() == counted(cause, 200)
    assert scene.device.in_flight == 0
    for head in range(SIZE):
        scene.ring.desc(head, DATA, 16)
    scene.ring.offer(*range(SIZE))
    assert len(scene.device.cycle([], [])) == 2 * SIZE


@pytest.mark.parametrize("features", [0, EVENT_IDX], ids=["flags", "event-idx"])
@clause("2.7.5.3.1")
def test_malformed_chain_with_a_table_needs_the_feature(features: int) -> None:
    scene = Scene(SIZE, features)
    indirect(LAST)(scene.ring)
    scene.ring.offer(0)

    assert scene.device.cycle([], []) == []
    assert scene.ring.take_used() == [(0, 0)]
    assert scene.rejected() == counted(Cause.INDIRECT_UNNEGOTIATED)
    scene.assert_serves()


@pytest.mark.parametrize(
    ("addr", "length", "flags"),
    [
        pytest.param(TOP + PAGE - 8, 16, 0, id="2.7.5-buffer"),
        pytest.param(TOP + PAGE - 16, 32, INDIRECT, id="2.7.5.3-table"),
    ],
)
def test_malformed_chain_does_not_go_on_at_address_0(addr: int, length: int, flags: int) -> None:
    """Even if there is memory: nothing lies behind the last address."""
    memory = Memory([fenced_region(PAGE, addr=0), fenced_region(PAGE, addr=TOP)])
    ring = HandRing(memory, RingGeometry.contiguous(4, 0x800, INDIRECT_DESC))
    device = DeviceRing(memory, ring.geometry)
    memory.write(0, descriptor(0, 1))
    memory.write(TOP + PAGE - 16, descriptor(0, 1, NEXT, 1))
    ring.desc(0, addr, length, flags)
    ring.offer(0)

    assert device.cycle([], []) == []
    assert device.statistics().rejected == counted(Cause.ADDRESS)


@pytest.mark.parametrize(
    ("last", "sizes", "rejected"),
    [
        pytest.param((1 << 30) - 1, [0xFFFFFFFF], {}, id="2.7.5.2-one-byte-less-is-taken"),
        pytest.param(1 << 30, [], counted(Cause.TOTAL_LENGTH), id="2.7.5.2-2^32-bytes"),
    ],
)
def test_malformed_chain_of_4_gib_goes_back(
    last: int, sizes: list[int], rejected: dict[str, int]
) -> None:
    """Four buffers of a GiB each, all the same: nobody needs as much memory for that."""
    with Region.create(1 << 30, addr=0) as region:
        ring = HandRing(Memory([region]), RingGeometry.contiguous(4, 0))
        device = DeviceRing(ring.memory, ring.geometry)
        for index in range(3):
            ring.desc(index, 0, 1 << 30, NEXT | WRITE, index + 1)
        ring.desc(3, 0, last, WRITE)
        ring.offer(0)

        assert device.cycle([], [])[1::2] == sizes
        assert device.statistics().rejected == rejected


@clause("2.7.5")
def test_malformed_chain_among_good_ones_disturbs_none() -> None:
    """The good chains of its batch are taken, in order; it alone goes back."""
    scene = Scene(SIZE)
    for head, addr in enumerate([DATA, HOLE, DATA + 1]):
        scene.ring.desc(head, addr, 16 + head)
    scene.ring.offer(2, 1, 0)
    flat = scene.device.cycle([], [])

    assert flat[1::2] == [18 << 32, 16 << 32]
    assert scene.ring.take_used() == [(1, 0)]


@pytest.mark.parametrize("features", [0, EVENT_IDX, INDIRECT_DESC])
@clause("2.7.7.2")
def test_malformed_chain_calls_the_driver_that_waits(features: int) -> None:
    """2.7.7.2: it comes back like any other."""
    scene = Scene(SIZE, features)
    scene.ring.desc(0, HOLE, 16)
    scene.ring.offer(0)
    scene.device.cycle([], [])

    assert scene.device.call_due


@clause("2.7.5")
def test_malformed_chains_are_counted_by_cause() -> None:
    scene = Scene(SIZE)
    scene.ring.desc(0, HOLE, 16)
    scene.ring.desc(1, DATA, 16, NEXT, 1)
    scene.ring.desc(2, DATA, 16)
    scene.ring.offer(0, 1, 0, 2)
    scene.device.cycle([], [])
    statistics = scene.device.statistics()

    assert statistics.rejected == {"address": 2, "chain_length": 1}
    assert (statistics.popped, statistics.in_flight, statistics.broken) == (1, 1, None)
    assert (statistics.bytes_in, statistics.bytes_out) == (16, 0)
