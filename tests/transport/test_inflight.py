"""The inflight table: how it lives, what is taken up from it, and which tables are refused."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from paravirt.transport import Memory, MemoryGone, PeerError
from paravirt.transport.inflight import InflightFile, table_size

from .inflight_scene import BYTES, GEOMETRY, SIZE, TABLE, Scene, heads_of

HEADER = struct.Struct("=QHHHH")
ENTRY = struct.Struct("=B5xHQ")


def table(
    marked: dict[int, int] | None = None,
    *,
    features: int = 0,
    version: int = 1,
    size: int = SIZE,
    last: int = 0,
    used: int = 0,
    nexts: dict[int, int] | None = None,
    mark: int = 1,
) -> bytes:
    """Write a table out as the specification has it; `marked` are heads and their counters."""
    marked, nexts = marked or {}, nexts or {}
    entries = (
        ENTRY.pack(mark * (head in marked), nexts.get(head, 0), marked.get(head, 0))
        for head in range(SIZE)
    )
    data = HEADER.pack(features, version, size, last, used) + b"".join(entries)
    return data.ljust(table_size(SIZE), b"\0")


def scene(data: bytes, *offered: int, used: int = 0) -> Scene:
    """Make a queue with this table, to which a driver has offered some chains."""
    made = Scene(bytes(TABLE) + data)
    made.memory.write(GEOMETRY.device + 2, used.to_bytes(2, "little"))
    made.memory.write(GEOMETRY.driver + 2, used.to_bytes(2, "little"))
    made.offer(*offered)
    return made


def test_sizes_are_those_of_the_specification() -> None:
    """16 bytes, and 16 for each descriptor; each queue's part is aligned to 64."""
    assert [table_size(size) for size in (1, 2, 4, 8, 128)] == [64, 64, 128, 192, 2112]


def test_new_file_is_sealed_and_as_large_as_its_tables() -> None:
    file = InflightFile.create(3, 128)
    seals = fcntl.fcntl(file.region.fd, fcntl.F_GET_SEALS)

    assert os.fstat(file.region.fd).st_size >= 3 * table_size(128) == file.region.size
    assert seals & fcntl.F_SEAL_SHRINK
    file.close()


def test_unused_table_becomes_one_with_nothing_in_hand() -> None:
    with scene(table({1: 5}, version=0, size=77, last=3), used=9) as queue:
        inflight = queue.take_up()

        assert inflight.fresh
        assert not inflight.heads
        assert queue.table == table(used=9)


def test_chain_is_marked_while_the_device_has_it() -> None:
    with scene(table(), 5, 2) as queue:
        ring = queue.ring(queue.take_up())
        first, _, second, _ = ring.cycle([], [])
        assert queue.table == table({5: 0, 2: 1})

        ring.complete([first], [0])
        assert queue.table[:16] == HEADER.pack(0, 1, SIZE, 5, 1)
        assert queue.take_up().heads == [2]

        ring.complete([second], [0])
        assert not queue.take_up().heads


def test_what_is_in_hand_is_taken_up_in_order_before_what_is_new() -> None:
    with scene(table({1: 30, 6: 10, 3: 20}), 6, 3, 1, 4, 0) as queue:
        ring = queue.ring(queue.take_up())
        assert ring.left_behind == 3
        flat = ring.cycle([], [])

        assert heads_of(flat) == [6, 3, 1, 4, 0]
        assert ring.left_behind == 0
        assert queue.take_up().heads == [6, 3, 1, 4, 0]


def test_what_is_in_hand_comes_back_once() -> None:
    with scene(table({1: 0, 2: 1}), 1, 2) as queue:
        ring = queue.ring(queue.take_up())
        flat = ring.cycle([], [])
        ring.complete(flat[::2], [0, 0])
        ring.complete(flat[::2], [0, 0])

        assert queue.used() == 2
        assert ring.statistics().stale == 2


def test_batch_whose_marks_were_not_cleared_is_not_taken_up() -> None:
    """The used index is ahead of the table's by as much as the list of the last batch is long."""
    data = table({1: 0, 2: 1, 3: 2}, last=3, nexts={3: 1}, used=0xFFFF)
    with scene(data, 2, used=1) as queue:
        assert queue.take_up().heads == [2]
        assert queue.take_up().heads == [2]


class Killed(Exception):
    """The end of a process, as a test can bear it."""


TAKEN_UP: dict[str, tuple[bytes, list[int]]] = {
    "a batch": (table({1: 0, 2: 1, 3: 2}, last=3, nexts={3: 1}), [2]),
    "nothing used": (table({1: 0, 2: 1}, version=0, size=0), []),
}


@pytest.mark.parametrize("case", TAKEN_UP.values(), ids=list(TAKEN_UP))
def test_killed_while_it_takes_up_a_table_the_next_does_it_again(
    monkeypatch: pytest.MonkeyPatch, case: tuple[bytes, list[int]]
) -> None:
    """The kill comes before each write in turn, until there is one write less than that."""
    data, heads = case
    write, left = Memory.write, 0

    def write_some(memory: Memory, addr: int, what: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        write(memory, addr, what)

    for lives in range(1, 10):
        with scene(data, 2, used=2) as queue:
            monkeypatch.setattr(Memory, "write", write_some)
            left = lives - 1
            with suppress(Killed):
                queue.take_up()
            monkeypatch.undo()

            assert queue.take_up().heads == heads
            features, version, size, _, used = HEADER.unpack_from(queue.table)
            assert (features, version, size, used) == (0, 1, SIZE, 2)
        if left >= 0:
            return
    pytest.fail("it never came to its end")


def test_table_may_be_for_a_longer_queue() -> None:
    file = InflightFile.create(2, 128)
    with scene(table(), 5) as queue:
        ring = queue.ring(queue.take_up_from(file, 1))
        ring.cycle([], [])

        assert queue.take_up_from(file, 1).heads == [5]
    file.close()


def test_reset_forgets_what_was_in_hand() -> None:
    with scene(table({4: 0}), 4) as queue:
        queue.file.forget()

        assert queue.take_up().fresh


LIES = {
    "version": table(version=2),
    "features": table(features=1),
    "descriptors": table(size=2 * SIZE),
    "mark": table({1: 0}, mark=2),
    "more given back than there are": table(used=0xFFFF - SIZE),
    "list leads outside": table({1: 0}, last=1, nexts={1: SIZE}, used=0xFFFE),
    "list begins outside": table(last=0xFFFF, used=0xFFFF),
    "list is a circle": table({1: 0}, last=1, nexts={1: 1}, used=0xFFFE),
    "more in hand than were offered": table({1: 0, 2: 1, 3: 2}),
}


@pytest.mark.parametrize("data", LIES.values(), ids=list(LIES))
def test_table_that_cannot_be_true_is_refused(data: bytes) -> None:
    with scene(data, 1, 2) as queue, pytest.raises(PeerError, match="inflight table of queue 0"):
        queue.take_up()


def test_mark_beyond_the_queue_is_refused() -> None:
    file = InflightFile.create(1, 128)
    with scene(table()) as queue:
        queue.take_up_from(file)
        os.pwrite(file.region.fd, b"\1", 16 + 16 * SIZE)
        with pytest.raises(PeerError, match="beyond"):
            queue.take_up_from(file)
    file.close()


def test_counters_may_be_anything() -> None:
    most = (1 << 64) - 1
    with scene(table({1: most, 2: most, 3: 0}), 1, 2, 3, 4) as queue:
        ring = queue.ring(queue.take_up())

        assert heads_of(ring.cycle([], [])) == [3, 1, 2, 4]


words = st.lists(st.integers(0, 0xFFFF) | st.integers(0, SIZE - 1), min_size=SIZE, max_size=SIZE)


@given(st.sets(st.integers(0, SIZE - 1)), words, words, st.integers(0, 0xFFFF), st.integers(0, 10))
def test_random_table_is_refused_or_taken_up_without_harm(
    marked: set[int], counters: list[int], nexts: list[int], used: int, ahead: int
) -> None:
    """Chains that a table names but the driver did not offer break the queue, and no more."""
    data = table(
        {head: counters[head] for head in marked},
        last=nexts[0],
        nexts=dict(enumerate(nexts)),
        used=(used - ahead) & 0xFFFF,
    )
    with scene(data, *range(SIZE), used=used) as queue:
        try:
            ring = queue.ring(queue.take_up())
            taken = heads_of(ring.cycle([], []))
        except PeerError:
            return
        assert len(set(taken)) == len(taken)
        assert ring.in_flight == len(taken)


FILES = {
    "too small": {"size": 2 * table_size(16) - 1},
    "larger than it is": {"size": 1 << 20},
    "empty": {"size": 0},
    "no queue": {"queues": 0},
    "too many queues": {"queues": 257},
    "no descriptors": {"queue_size": 0},
    "too many descriptors": {"queue_size": 32769},
    "askew": {"offset": 8},
    "beyond the end": {"offset": 1 << 62},
    "before the start": {"offset": -16},
}


@pytest.mark.parametrize("wrong", FILES.values(), ids=list(FILES))
def test_file_that_cannot_hold_the_tables_is_refused_and_closed(wrong: dict[str, int]) -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 1 << 16)
    right = {"size": 2 * table_size(16), "offset": 0, "queues": 2, "queue_size": 16}

    with pytest.raises(PeerError):
        InflightFile.foreign(fd, **{**right, **wrong})

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def foreign(size: int = BYTES) -> InflightFile:
    """Make a file that its owner can shrink."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return InflightFile.foreign(fd, size=size, offset=0, queues=1, queue_size=SIZE)


def test_file_that_shrank_is_noticed_when_it_is_taken_up() -> None:
    file = foreign()
    os.ftruncate(file.region.fd, 0)
    with scene(table()) as queue, pytest.raises(MemoryGone):
        queue.take_up_from(file)
    with pytest.raises(MemoryGone):
        file.forget()
    file.close()


@pytest.mark.parametrize("turns", [0, 1])
def test_file_that_shrinks_under_a_queue_breaks_the_queue(turns: int) -> None:
    file = foreign()
    with scene(table(), 1, 2) as queue:
        ring = queue.ring(queue.take_up_from(file))
        taken = ring.cycle([], []) if turns else []
        os.ftruncate(file.region.fd, 0)

        with pytest.raises(MemoryGone):
            ring.cycle(taken[::2], [0] * turns * 2)
        with pytest.raises(MemoryGone):
            ring.cycle([], [])
        assert ring.statistics().broken == "gone"
    file.close()
