"""The log of dirty pages: each page that a device writes is marked, after the write, and no other.

vhost-user, "Migration"; CVE-2019-14835 and CVE-2020-10722 are what a log without bounds does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from paravirt.doorbells import EventFd
from paravirt.transport import AddressError, DirtyLog, Feature, MemoryGone, PeerError

from .hand_ring import WRITE
from .logged_ring import BYTES, DATA, DATA_SIZE, PAGE, USED_LOG, LoggedRing, pages, used_entry

if TYPE_CHECKING:
    from collections.abc import Generator

HOLE = 0x800000
SEGMENTS = st.lists(
    st.tuples(st.integers(DATA, DATA + DATA_SIZE - 2 * PAGE), st.integers(0, 2 * PAGE)),
    min_size=1,
    max_size=4,
)
WRITES = st.tuples(SEGMENTS, st.integers(0, 3 * PAGE), st.integers(0, 5 * PAGE), st.booleans())


@pytest.fixture
def ring() -> Generator[LoggedRing]:
    made = LoggedRing()
    yield made
    made.close()


def touched(segments: list[tuple[int, int]], offset: int, size: int) -> set[int]:
    """Return the pages of `size` bytes from `offset` on of some buffers."""
    found: set[int] = set()
    for addr, length in segments:
        skip = min(offset, length)
        part = min(length - skip, size)
        found |= pages(addr + skip, part)
        offset, size = offset - skip, size - part
    return found


@given(writes=st.lists(WRITES, max_size=6), features=st.sampled_from([0, Feature.RING_EVENT_IDX]))
def test_each_write_marks_its_pages_and_no_other(
    writes: list[tuple[list[tuple[int, int]], int, int, bool]], features: int
) -> None:
    ring = LoggedRing(features)
    source = os.memfd_create("source")
    for turn, (segments, offset, size, by_file) in enumerate(writes):
        data = bytes([turn + 1]) * size
        os.pwrite(source, data, 0)
        token = ring.offer(segments, readable=turn)
        with ring.marks(touched(segments, offset, size)):
            if by_file:
                ring.device.read_file(token, offset, source, 0, size)
            else:
                ring.device.write(token, offset, data)
        with ring.marks(used_entry(turn)):
            ring.device.cycle([token], [size])
    os.close(source)
    ring.close()


@pytest.mark.parametrize(
    ("features", "where"),
    [
        pytest.param(0, USED_LOG, id="2.7.10: flags"),
        pytest.param(Feature.RING_EVENT_IDX, USED_LOG + 4 + 8 * 16, id="2.7.10: avail_event"),
    ],
)
def test_asking_for_a_kick_marks_what_asks(features: int, where: int) -> None:
    ring = LoggedRing(features)
    for ask in ring.device.disarm, ring.device.arm:
        with ring.marks(pages(where, 2)):
            ask()
    ring.close()


def test_a_chain_that_goes_back_unserved_marks_its_used_entry(ring: LoggedRing) -> None:
    ring.driver.desc(0, HOLE, 4, WRITE)
    ring.driver.offer(0)
    with ring.marks(used_entry(0)):
        assert ring.device.cycle([], []) == []


def test_a_full_turn_of_the_ring_marks_all_of_it(ring: LoggedRing) -> None:
    for head in range(16):
        ring.driver.desc(head, DATA, 4, WRITE)
    ring.driver.offer(*range(16))
    tokens = ring.device.cycle([], [])[::2]
    with ring.marks(pages(USED_LOG, 6 + 8 * 16)):
        ring.device.cycle(tokens, [0] * 16)


def test_nothing_to_do_marks_nothing(ring: LoggedRing) -> None:
    with ring.marks(set()):
        ring.device.cycle([], [])
        ring.device.pending()


def test_the_used_ring_is_left_out_without_its_address() -> None:
    ring = LoggedRing(used=None)
    token = ring.offer([(DATA, 8)])
    with ring.marks(pages(DATA, 8)):
        ring.device.write(token, 0, b"8 bytes.")
    os.pwrite(ring.file, bytes(BYTES), 0)
    ring.device.cycle([token], [8])
    ring.device.disarm()

    assert ring.marked() == set()
    ring.close()


@given(addr=st.integers(0, 8 * BYTES * PAGE), size=st.integers(0, 64 * PAGE))
def test_a_mark_sets_the_bits_of_its_range_or_none(addr: int, size: int) -> None:
    file = os.memfd_create("log")
    os.ftruncate(file, 2 * BYTES)  # the second half is not the log's
    log = DirtyLog(os.dup(file), size=BYTES)
    expected = pages(addr, size)
    if inside := max(expected, default=0) < 8 * BYTES:
        log.mark(addr, size)
    else:
        with pytest.raises(AddressError):
            log.mark(addr, size)
    bits = int.from_bytes(os.pread(file, 2 * BYTES, 0), "little")
    os.close(file)

    assert bits == (sum(1 << page for page in expected) if inside else 0)


@pytest.mark.parametrize("addr", [8 * BYTES * PAGE, (1 << 64) - 1, (1 << 63)])
def test_no_page_outside_is_marked(ring: LoggedRing, addr: int) -> None:
    for size in 1, 2, (1 << 64) - 1:
        with pytest.raises(AddressError):
            ring.log.mark(addr, size)


def test_marks_that_were_there_stay(ring: LoggedRing) -> None:
    for page in 3, 5, 4:
        ring.log.mark(page * PAGE, 1)

    assert ring.marked() == {3, 4, 5}


@pytest.mark.parametrize(("size", "offset"), [(BYTES, 1), (BYTES + 1, 0), (1, BYTES), (1, 1 << 63)])
def test_a_file_that_is_too_short_is_refused(size: int, offset: int) -> None:
    file = os.memfd_create("log")
    os.ftruncate(file, BYTES)
    with pytest.raises(PeerError, match="too few"):
        DirtyLog(file, size=size, offset=offset)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_an_offset_within_a_page_is_where_the_log_begins() -> None:
    file = os.memfd_create("log")
    os.ftruncate(file, 2 * PAGE)
    DirtyLog(os.dup(file), size=8, offset=PAGE + 100).mark(0, 1)

    assert os.pread(file, 2 * PAGE, 0).find(1) == PAGE + 100
    os.close(file)


@pytest.mark.parametrize("used", [8 * BYTES * PAGE - 6 - 8 * 16 + 1, (1 << 64) - 1])
def test_a_used_ring_that_the_log_lacks_is_refused(ring: LoggedRing, used: int) -> None:
    with pytest.raises(PeerError, match="the log of dirty pages ends"):
        ring.device.log_to(ring.log, used)


def test_a_log_truncated_in_use_ends_a_write(ring: LoggedRing) -> None:
    token = ring.offer([(DATA, 8)])
    os.ftruncate(ring.file, 0)
    with pytest.raises(MemoryGone):
        ring.device.write(token, 0, b"lost")
    source = os.memfd_create("source")
    os.write(source, b"lost")
    with pytest.raises(MemoryGone):
        ring.device.read_file(token, 0, source, 0, 4)
    os.close(source)


def test_a_log_truncated_in_use_breaks_the_ring(ring: LoggedRing) -> None:
    token = ring.offer([(DATA, 8)])
    os.ftruncate(ring.file, 0)
    ring.device.disarm()

    assert ring.device.statistics().broken == "gone"
    assert ring.device.arm()
    with pytest.raises(MemoryGone):
        ring.device.cycle([token], [0])


def test_each_mark_rings_the_bell_and_never_waits_for_it(ring: LoggedRing) -> None:
    """A peer can take O_NONBLOCK off the descriptor that it shares."""
    bell = EventFd()
    ring.log.ring_after_marks(bell)
    ring.log.mark(0, 1)
    assert bell.wait_blocking(0)
    os.set_blocking(bell.fileno(), True)
    os.eventfd_write(bell.fileno(), (1 << 64) - 2)
    ring.log.mark(0, 1)
    ring.log.ring_after_marks(None)
    assert bell.wait_blocking(0)
    ring.log.mark(0, 1)

    assert not bell.wait_blocking(0)
    bell.close()
