"""The driver's end: what it writes, what it takes back, whom it wakes."""

from __future__ import annotations

import struct
import threading

import pytest

from paravirt.transport._driver_ring import BATCH, DriverRing
from paravirt.transport._features import Feature
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._memory import Memory
from paravirt.transport._region import Region

from .fenced import PAGE, fenced_region
from .hand_ring import INDIRECT, NEXT, WRITE, HandRing, start_at

RINGS, TABLES, DATA = 0x10000, 0x100000, 0x200000
EVENT_IDX, INDIRECT_DESC = Feature.RING_EVENT_IDX, Feature.RING_INDIRECT_DESC
GIB = 1 << 30


class Guest:
    """A driver's end, and the bytes as the device finds them."""

    def __init__(self, size: int = 8, features: int = 0, *, start: int = 0) -> None:
        self.memory = Memory(
            [
                fenced_region(4 * PAGE, addr=RINGS),
                fenced_region(PAGE, addr=TABLES),
                fenced_region(PAGE, addr=DATA),
            ]
        )
        self.geometry = RingGeometry.contiguous(size, RINGS, features)
        self.driver = DriverRing(self.memory, self.geometry, tables=TABLES, table_max=4)
        start_at(self.driver, self.memory, start)
        self.device = HandRing(self.memory, self.geometry, index=start)

    def desc(self, index: int, table: int | None = None) -> tuple[int, ...]:
        """Return a descriptor: address, length, flags, next."""
        at = (self.geometry.desc if table is None else table) + 16 * index
        return struct.unpack("<QIHH", self.memory.read(at, 16))

    def head(self, index: int) -> int:
        """Return an entry of the available ring."""
        return self.device.words.get(self.device.words.avail_entry(index))

    @property
    def avail_index(self) -> int:
        return self.device.words.get(self.geometry.driver + 2)

    def send(self, count: int = 1) -> list[int]:
        """Add small requests and publish them."""
        heads = self.driver.add_many([(DATA, 4, 0, 0)] * count)
        self.driver.publish()
        return heads


# Adding.


def test_a_chain_is_written_descriptor_by_descriptor() -> None:
    """2.7.5: readable buffers first, each naming the next."""
    guest = Guest()
    head = guest.driver.add([(DATA, 1), (DATA + 8, 2)], [(DATA + 16, 3)])
    assert head is not None
    first = guest.desc(head)
    second = guest.desc(first[3])
    third = guest.desc(second[3])

    assert first[:3] == (DATA, 1, NEXT)
    assert second[:3] == (DATA + 8, 2, NEXT)
    assert third == (DATA + 16, 3, WRITE, 0)
    assert guest.driver.free == 5


def test_a_chain_of_several_buffers_goes_into_a_table() -> None:
    """2.7.5.3: it takes one descriptor, and its entries follow each other."""
    guest = Guest(features=INDIRECT_DESC)
    head = guest.driver.add([(DATA, 1), (DATA + 8, 2)], [(DATA + 16, 3)])
    assert head is not None
    table, length, flags, _ = guest.desc(head)

    assert (length, flags) == (48, INDIRECT)
    assert guest.desc(0, table) == (DATA, 1, NEXT, 1)
    assert guest.desc(1, table) == (DATA + 8, 2, NEXT, 2)
    assert guest.desc(2, table) == (DATA + 16, 3, WRITE, 0)
    assert guest.driver.free == 7


@pytest.mark.parametrize(
    ("buffers", "features", "taken"),
    [
        pytest.param(1, INDIRECT_DESC, 1, id="one-buffer-needs-no-table"),
        pytest.param(4, INDIRECT_DESC, 1, id="as-many-as-a-table-has"),
        pytest.param(5, INDIRECT_DESC, 5, id="more-than-a-table-has"),
        pytest.param(4, 0, 4, id="not-negotiated"),
    ],
)
def test_a_table_is_used_where_it_helps(buffers: int, features: int, taken: int) -> None:
    guest = Guest(features=features)
    guest.driver.add([(DATA, 1)] * buffers)

    assert guest.driver.free == 8 - taken


def test_tables_of_different_heads_do_not_overlap() -> None:
    guest = Guest(features=INDIRECT_DESC)
    heads = guest.driver.add_many([(DATA + n, 1, DATA + n, 1) for n in range(8)])
    tables = [guest.desc(head)[0] for head in heads]

    assert [guest.desc(0, table)[0] for table in tables] == [DATA + n for n in range(8)]
    assert guest.driver.free == 0


@pytest.mark.parametrize("start", [0, 65535])
def test_the_device_sees_nothing_before_publication(start: int) -> None:
    """2.7.13.3."""
    guest = Guest(start=start)
    heads = [guest.driver.add([(DATA, 1)]), guest.driver.add([(DATA, 1)])]
    before = guest.avail_index
    guest.driver.publish()

    assert before == start
    assert guest.avail_index == (start + 2) % 65536
    assert [guest.head(start), guest.head((start + 1) % 65536)] == heads


def test_a_full_queue_takes_no_more() -> None:
    guest = Guest()
    for _ in range(4):
        assert guest.driver.add([(DATA, 1)], [(DATA, 1)]) is not None

    assert guest.driver.add([(DATA, 1)]) is None
    assert guest.driver.add_many([(DATA, 1, DATA, 1)]) == []
    assert (guest.driver.free, guest.driver.in_flight) == (0, 4)


def test_a_chain_that_does_not_fit_leaves_no_trace() -> None:
    guest = Guest()
    guest.driver.add([(DATA, 1)] * 6)

    assert guest.driver.add([(DATA, 1)] * 3) is None
    assert guest.driver.add([(DATA, 1)] * 2) is not None


@pytest.mark.parametrize("buffers", [0, 9])
def test_a_chain_longer_than_the_queue_is_refused(buffers: int) -> None:
    """2.7.5.3.1."""
    with pytest.raises(ValueError):
        Guest().driver.add([(DATA, 1)] * buffers)


def test_a_chain_of_4_gib_is_refused() -> None:
    """2.7.5.2."""
    guest = Guest()
    guest.driver.add([(DATA, GIB)] * 3, [(DATA, GIB - 1)])

    with pytest.raises(ValueError):
        guest.driver.add([(DATA, GIB)] * 3, [(DATA, GIB)])
    assert guest.driver.free == 4


def test_many_requests_are_added_until_the_queue_is_full() -> None:
    guest = Guest()
    heads = guest.driver.add_many([(DATA, 1, DATA, 1)] * 100)

    assert len(heads) == 4
    assert guest.driver.in_flight == 4


def test_a_request_without_one_of_its_buffers_takes_one_descriptor() -> None:
    guest = Guest()
    read, written, neither = guest.driver.add_many([(DATA, 3, 0, 0), (0, 0, DATA, 5), (0, 0, 0, 0)])

    assert guest.desc(read) == (DATA, 3, 0, 0)
    assert guest.desc(written) == (DATA, 5, WRITE, 0)
    assert guest.desc(neither)[1:3] == (0, WRITE)


def test_a_wrong_request_among_many_is_told_when_it_is_the_first() -> None:
    """Those before it are added, and their heads are not lost."""
    guest = Guest()
    requests = [(DATA, 1, 0, 0), (DATA, 0xFFFFFFFF, DATA, 1), (DATA, 1, 0, 0)]
    heads = guest.driver.add_many(requests)

    assert len(heads) == 1
    with pytest.raises(ValueError):
        guest.driver.add_many(requests[1:])
    assert guest.driver.in_flight == 1


# Taking back.


def test_what_comes_back_is_a_head_and_a_length() -> None:
    guest = Guest()
    head = guest.driver.add([(DATA, 4)], [(DATA, 8)])
    guest.driver.publish()
    guest.device.put_used((head or 0, 5))

    assert guest.driver.reap() == [head, 5]
    assert guest.driver.reap() == []
    assert (guest.driver.free, guest.driver.in_flight) == (8, 0)


@pytest.mark.parametrize("features", [0, INDIRECT_DESC])
def test_the_queue_can_be_filled_again_whatever_the_order(features: int) -> None:
    """2.7.14: buffers come back in any order."""
    guest = Guest(features=features)
    for turn in range(50):
        heads = guest.driver.add_many([(DATA, 1, DATA, 1)] * 8)
        guest.driver.publish()
        assert len({*heads}) == (8 if features else 4)
        guest.device.put_used(*((head, 1) for head in heads[turn % 3 :] + heads[: turn % 3]))
        guest.driver.reap()

    assert guest.driver.free == 8


def test_indices_go_round() -> None:
    """2.7.6, 2.7.8: they count modulo 2^16."""
    guest = Guest(start=65533)
    for _ in range(10):
        [head] = guest.send()
        guest.device.put_used((head, 0))
        assert guest.driver.reap() == [head, 0]

    assert guest.driver.indices == (7, 7)


def test_a_long_queue_is_reaped_in_batches() -> None:
    guest = Guest(size=512)
    heads = guest.send(BATCH) + guest.send(100)
    guest.device.put_used(*((head, 0) for head in heads))

    assert guest.driver.reap()[::2] == heads[:BATCH]
    assert guest.driver.pending()
    assert guest.driver.reap()[::2] == heads[BATCH:]


# Waking and being woken.


def test_a_kick_is_needed_unless_the_device_wants_none() -> None:
    """2.7.10: without EVENT_IDX a flag of the device ring says so."""
    guest = Guest()
    guest.driver.add([(DATA, 1)])
    wanted = guest.driver.publish()
    guest.device.words.put(guest.geometry.device, 1)
    guest.driver.add([(DATA, 1)])

    assert wanted
    assert not guest.driver.publish()


@pytest.mark.parametrize(
    ("event", "needed"),
    [(65533, False), (65534, True), (65535, True), (0, True), (1, False), (30000, False)],
)
def test_a_kick_is_needed_when_the_index_passes_the_event(event: int, needed: bool) -> None:
    """2.7.10: the three entries made available here are number 65534, 65535 and 0."""
    guest = Guest(features=EVENT_IDX, start=65534)
    guest.device.words.put(guest.device.words.avail_event, event)
    guest.device.words.put(guest.geometry.device, 1)  # 2.7.10.1: not looked at
    guest.driver.add_many([(DATA, 1, 0, 0)] * 3)

    assert guest.driver.publish() == needed


def test_publishing_nothing_needs_no_kick() -> None:
    guest = Guest()
    guest.send()

    assert not guest.driver.publish()


def test_asking_for_a_call_clears_the_flag() -> None:
    """2.7.7."""
    guest = Guest()
    guest.driver.disarm()
    before = guest.device.words.get(guest.geometry.driver)
    guest.driver.arm()

    assert (before, guest.device.words.get(guest.geometry.driver)) == (1, 0)


def test_asking_for_a_call_names_the_next_entry() -> None:
    """2.7.7.1: with EVENT_IDX the flag stays 0."""
    guest = Guest(features=EVENT_IDX, start=65535)
    [head] = guest.send()
    guest.device.put_used((head, 0))
    guest.driver.reap()
    guest.driver.arm()

    assert guest.device.words.get(guest.device.words.used_event) == 0
    assert not guest.device.words.call_needed(65535, 0)
    assert guest.device.words.call_needed(0, 1)
    guest.driver.disarm()
    assert not guest.device.words.call_needed(0, 8)
    assert guest.device.words.get(guest.geometry.driver) == 0


@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_arming_looks_again(features: int) -> None:
    guest = Guest(features=features)
    [head] = guest.send()

    assert not guest.driver.arm()
    guest.device.put_used((head, 0))
    assert guest.driver.arm()


def test_a_spin_finds_what_another_thread_returns() -> None:
    guest = Guest()
    [head] = guest.send()
    device = threading.Thread(target=guest.device.put_used, args=((head, 0),))
    device.start()

    assert guest.driver.spin(10**10)
    device.join()


def test_a_spin_ends() -> None:
    guest = Guest()
    guest.send()

    assert not guest.driver.spin(1000)


def test_a_spin_is_one_look_if_the_device_cannot_run_meanwhile() -> None:
    guest = Guest()
    guest.driver.concurrent = False

    assert not guest.driver.spin(10**12)


# The start.


def test_a_new_ring_begins_with_both_rings_zeroed() -> None:
    """2.7.10.1."""
    guest = Guest()
    length = guest.geometry.end - guest.geometry.driver
    guest.memory.write(guest.geometry.driver, b"\xff" * length)
    DriverRing(guest.memory, guest.geometry)
    gap = guest.geometry.device - guest.geometry.driver - 22

    assert guest.memory.read(guest.geometry.driver, length) == (
        bytes(22) + b"\xff" * gap + bytes(6 + 8 * 8)
    )


@pytest.mark.parametrize(("features", "room"), [(0, 4), (INDIRECT_DESC, 8)])
def test_room_is_what_many_requests_find(features: int, room: int) -> None:
    guest = Guest(features=features)

    assert guest.driver.room == room
    assert len(guest.driver.add_many([(DATA, 1, DATA, 1)] * 9)) == room


def test_the_largest_queue_works() -> None:
    """2.7: 32768 descriptors, all in flight at once."""
    with Region.create(1 << 20, addr=RINGS) as region:
        memory = Memory([region])
        geometry = RingGeometry.contiguous(32768, RINGS)
        driver, device = DriverRing(memory, geometry), HandRing(memory, geometry)
        heads = [head for _ in range(128) for head in driver.add_many([(RINGS, 1, 0, 0)] * 256)]
        driver.publish()
        device.put_used(*((head, 0) for head in heads))
        found = [head for _ in range(128) for head in driver.reap()[::2]]

        assert found == heads
        assert sorted(heads) == list(range(32768))
