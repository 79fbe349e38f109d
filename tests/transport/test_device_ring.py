"""The device's end: what it takes, what it gives back, and what it counts."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from paravirt.transport._device_ring import BATCH, DeviceRing
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._memory import Memory
from paravirt.transport._region import Region

from .hand_ring import NEXT, HandRing
from .ring_scene import DATA, HOLE, SPARE, Scene, one, ready

Pack = Callable[[Iterable[int]], "array[int] | list[int]"]


# Taking.


def test_chains_are_taken_in_the_order_in_which_they_were_offered() -> None:
    scene = Scene()
    for head in range(4):
        scene.ring.desc(head, DATA, head + 1)
    scene.ring.offer(2, 0, 3, 1)

    assert scene.device.cycle([], [])[1::2] == [3 << 32, 1 << 32, 4 << 32, 2 << 32]
    assert scene.device.cycle([], []) == []


def test_a_turn_takes_a_batch_at_most() -> None:
    with Region.create(1 << 16, addr=0) as region:
        ring = HandRing(Memory([region]), RingGeometry.contiguous(512, 0))
        device = DeviceRing(Memory([region]), ring.geometry)
        for head in range(300):
            ring.desc(head, 0, 1)
        ring.offer(*range(300))

        assert len(device.cycle([], [])) == 2 * BATCH
        assert device.pending()
        assert len(device.cycle([], [])) == 2 * (300 - BATCH)


def test_a_limit_is_used_up() -> None:
    scene = ready(4)
    scene.device.limit = 3

    assert len(scene.device.cycle([], [])) == 2 * 3
    assert scene.device.limit == 0
    assert not scene.device.pending()
    assert not scene.device.arm()
    assert not scene.device.spin(10**12)
    assert scene.device.cycle([], [], 10**12) == []
    scene.device.limit = None
    assert len(scene.device.cycle([], [])) == 2 * 1


def test_a_ring_goes_on_where_it_stopped() -> None:
    """As after GET_VRING_BASE: with the indices of before, and a new generation."""
    scene = ready(2)
    scene.device.limit = 1
    scene.device.complete([one(scene)], [8])
    avail, used = scene.device.indices
    device = DeviceRing(scene.memory, scene.ring.geometry, avail=avail, used=used, generation=2)
    [token, _] = device.cycle([], [])
    device.complete([token], [3])

    assert (avail, used) == (1, 1)
    assert scene.ring.take_used() == [(0, 8), (2, 3)]


# Reading and writing.


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 4, b"data"),
        (1, 2, b"at"),
        (2, 100, b"ta"),
        (4, 1, b""),
        (2**32 - 1, 4, b""),
        (0, 0, b""),
    ],
)
def test_a_read_is_short_at_the_end(offset: int, size: int, expected: bytes) -> None:
    scene = ready(1)

    assert scene.device.read(one(scene), offset, size) == expected


def test_a_long_read_comes_whole() -> None:
    scene = Scene()
    text = bytes(range(256)) * 8
    scene.memory.write(DATA, text)
    scene.ring.desc(0, DATA, 1000, NEXT, 1)
    scene.ring.desc(1, DATA + 1000, 1000)
    scene.ring.offer(0)

    assert scene.device.read(one(scene), 1, 1 << 20) == text[1:2000]


@pytest.mark.parametrize(
    ("offset", "data", "left"),
    [(0, b"12345678", b"12345678"), (6, b"12345678", b"\0" * 6 + b"12"), (8, b"1", b"\0" * 8)],
)
def test_a_write_is_cut_at_the_end(offset: int, data: bytes, left: bytes) -> None:
    scene = ready(1)

    assert scene.device.write(one(scene), offset, data) == min(len(data), 8 - offset)
    assert scene.memory.read(SPARE, 8) == left
    assert scene.memory.read(SPARE + 8, 8) == bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        memoryview(b"xabcdx")[1:5],
        memoryview(b"abcd").cast("H"),
    ],
    ids=["bytearray", "view", "slice", "words"],
)
def test_any_contiguous_buffer_can_be_written(data: bytearray | memoryview) -> None:
    scene = ready(1)

    assert scene.device.write(one(scene), 0, data) == 4
    assert scene.memory.read(SPARE, 5) == b"abcd\0"


# Giving back.


@pytest.mark.parametrize(("said", "told"), [(0, 0), (5, 5), (8, 8), (9, 8), (0xFFFFFFFF, 8)])
def test_a_used_length_is_at_most_what_is_writable(said: int, told: int) -> None:
    """2.7.8.2."""
    scene = ready(1)
    scene.device.cycle([one(scene)], [said])

    assert scene.ring.take_used() == [(0, told)]
    assert scene.device.statistics().bytes_out == told


def test_chains_go_back_in_the_order_of_completion() -> None:
    """2.7.14: any order will do for the driver."""
    scene = ready(3)
    first, _, second, _, third, _ = scene.device.cycle([], [])
    scene.device.cycle([second], [2])
    scene.device.cycle([third, first], [3, 1])

    assert scene.ring.take_used() == [(2, 2), (4, 3), (0, 1)]


def test_one_turn_gives_back_and_takes() -> None:
    scene = ready(1)
    token = one(scene)
    scene.ring.offer(2)
    flat = scene.device.cycle([token], [8])

    assert flat[1::2] == [4 << 32 | 8]
    assert scene.ring.take_used() == [(0, 8)]


@pytest.mark.parametrize(
    ("tokens_as", "lengths_as"), [(list, list), (partial(array, "Q"), partial(array, "I"))]
)
def test_completions_come_as_lists_or_arrays(tokens_as: Pack, lengths_as: Pack) -> None:
    scene = ready(8, size=16)
    tokens = scene.device.cycle([], [])[::2]
    scene.device.complete(tokens_as(tokens), lengths_as(range(8)))

    assert scene.ring.take_used() == [(2 * n, n) for n in range(8)]


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [([1, 2], [1]), ([], [1]), (array("Q", range(8)), array("I", range(7))),
     (array("Q", range(8)), array("H", range(8)))],
)  # fmt: skip
def test_completions_without_their_lengths_are_refused(
    tokens: array[int] | list[int], lengths: array[int] | list[int]
) -> None:
    scene = ready(1)

    with pytest.raises(ValueError):
        scene.device.complete(tokens, lengths)


def test_what_ended_in_order_goes_back_as_far_as_it_was_written() -> None:
    """2.7.8: the used length is where the last byte written ends."""
    scene = ready(3)
    first, _, second, _, third, _ = scene.device.cycle([])
    scene.device.write(first, 0, b"abc")
    scene.device.write(second, 2, b"de")
    scene.device.write(second, 0, b"f")
    scene.device.write(third, 0, b"later")

    scene.device.complete([], ended=2)
    assert scene.ring.take_used() == [(0, 3), (2, 4)]
    scene.device.cycle([], ended=1)
    assert scene.ring.take_used() == [(4, 5)]


def test_what_ended_in_order_does_not_go_back_twice() -> None:
    scene = ready(3)
    _, _, second, _, _, _ = scene.device.cycle([])
    scene.device.write(second, 0, b"ab")
    scene.device.cycle([second], ended=3)

    assert scene.ring.take_used() == [(2, 2), (0, 0), (4, 0)]
    assert scene.device.statistics().stale == 0


def test_no_more_end_in_order_than_were_taken() -> None:
    scene = ready(2)
    scene.device.cycle([])
    scene.device.complete([], ended=5)
    scene.ring.offer(4)
    scene.device.cycle([], ended=5)

    assert scene.device.in_flight == 1
    assert scene.ring.take_used() == [(0, 0), (2, 0)]


def test_completions_without_lengths_count_what_was_written() -> None:
    scene = ready(8, size=16)
    tokens = scene.device.cycle([])[::2]
    for token in tokens:
        scene.device.write(token, 0, b"abc")
    assert [scene.device.written(token) for token in tokens] == [3] * 8
    scene.device.complete(array("Q", tokens))

    assert scene.ring.take_used() == [(2 * n, 3) for n in range(8)]
    assert [scene.device.written(token) for token in tokens] == [0] * 8
    assert not any(scene.device.holds(token) for token in tokens)


# Tokens.


def test_a_token_is_good_once() -> None:
    scene = ready(1)
    token = one(scene)
    scene.device.complete([token, token], [8, 8])
    scene.device.complete([token], [8])

    assert scene.ring.take_used() == [(0, 8)]
    assert (scene.device.statistics().completed, scene.device.statistics().stale) == (1, 2)


def test_a_token_is_not_good_for_the_next_chain_of_its_head() -> None:
    scene = ready(1)
    old = one(scene)
    scene.device.complete([old], [8])
    scene.ring.offer(0)
    new = one(scene)
    scene.device.complete([old], [8])

    assert scene.ring.take_used() == [(0, 8)]
    assert scene.device.read(old, 0, 4) == b""
    assert scene.device.read(new, 0, 4) == b"data"
    assert scene.device.in_flight == 1


def test_a_token_of_an_earlier_generation_does_nothing() -> None:
    """2.4.1, 2.6.1.1.1: after a reset the device must not touch what it had before."""
    scene = ready(1)
    old = one(scene)
    scene.ring.put_avail_index(1)
    device = DeviceRing(scene.memory, scene.ring.geometry, generation=2)
    [new, _] = device.cycle([], [])

    assert (old >> 48, new >> 48) == (1, 2)
    assert device.read(old, 0, 4) == b""
    assert device.write(old, 0, b"late") == 0
    assert device.read_file(old, 0, 0, 0, 4) == 0
    assert not device.complete([old], [8])
    assert scene.ring.take_used() == []
    assert scene.memory.read(SPARE, 4) == bytes(4)
    assert device.statistics().stale == 1


@pytest.mark.parametrize("token", [0, 7, 8, 65535, (1 << 64) - 1])
def test_a_token_that_never_was_does_nothing(token: int) -> None:
    scene = ready(1)
    one(scene)

    assert scene.device.read(token, 0, 4) == b""
    assert not scene.device.complete([token], [8])
    assert scene.device.statistics().stale == 1


# Counting.


def test_a_life_of_a_queue_is_counted() -> None:
    scene = ready(3)
    scene.ring.desc(6, HOLE, 1)
    scene.ring.offer(6)
    first, _, second, _, _, _ = scene.device.cycle([], [])
    scene.device.complete([first, second, second], [8, 5, 5])
    statistics = scene.device.statistics()

    assert (statistics.popped, statistics.completed, statistics.in_flight) == (3, 2, 1)
    assert (statistics.bytes_in, statistics.bytes_out) == (12, 13)
    assert (statistics.stale, statistics.rejected) == (1, {"address": 1})
    assert statistics.broken is None


def test_a_new_ring_has_counted_nothing() -> None:
    statistics = Scene().device.statistics()

    assert (statistics.popped, statistics.completed, statistics.in_flight) == (0, 0, 0)
    assert (statistics.stale, statistics.rejected, statistics.broken) == (0, {}, None)


# Peeking.


def test_the_first_bytes_of_what_is_taken_are_at_hand() -> None:
    """Of a chain that is shorter, what follows its end means nothing."""
    scene = ready(3)
    scene.device.peek(2)
    flat = scene.device.cycle([])
    whole = [scene.device.read(token, 0, 2) for token in flat[::2]]

    assert list(scene.device.heads(3)) == whole


@pytest.mark.parametrize("size", [-1, 65])
def test_no_more_than_a_header_can_be_peeked_at(size: int) -> None:
    with pytest.raises(ValueError):
        ready(1).device.peek(size)
