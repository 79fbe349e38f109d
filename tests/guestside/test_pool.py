"""The buddy allocator behind requests and rings."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from paravirt.guestside._pool import BufferPool
from paravirt.transport import AddressError, Memory, Region

if TYPE_CHECKING:
    import random

PAGE = 4096
BASE = 1 << 20


def pool_of(size: int, *, at: int = BASE) -> BufferPool:
    memory = Memory([Region.create(1 << 18, addr=BASE)])
    return BufferPool(memory, at, size)


def take(pool: BufferPool, size: int) -> int:
    address = pool.allocate(size)
    assert address is not None
    return address


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, PAGE - 1, PAGE, PAGE + 1])
def test_a_block_begins_at_a_multiple_of_its_size(size: int) -> None:
    pool = pool_of(1 << 16)
    before = pool.free

    first, second = take(pool, size), take(pool, size)

    block = (before - pool.free) // 2
    assert block >= max(size, 64)
    assert first % block == second % block == 0
    assert abs(first - second) >= block


def test_an_exhausted_pool_gives_none() -> None:
    pool = pool_of(1 << 12)
    blocks = [pool.allocate(64) for _ in range(64)]

    assert None not in blocks
    assert pool.allocate(1) is None
    assert pool.free == 0


def test_small_blocks_come_together_for_a_large_one() -> None:
    pool = pool_of(1 << 16)
    for address in [take(pool, 64) for _ in range(1 << 10)]:
        pool.release(address, 64)

    assert pool.allocate(1 << 16) == BASE


def test_no_block_is_larger_than_what_was_settled() -> None:
    pool = pool_of(1 << 16)
    take(pool, 100)

    pool.settle()

    assert pool.largest == 1 << 15
    assert pool.allocate(pool.largest) is not None
    assert pool.allocate(pool.largest + 1) is None
    assert pool.allocate(1 << 40) is None


def test_clear_takes_everything_back() -> None:
    pool = pool_of(1 << 16)
    while pool.allocate(1000) is not None:
        pass

    pool.clear()

    assert pool.free == 1 << 16
    assert pool.allocate(1 << 16) == BASE


def test_a_range_outside_of_memory_is_refused() -> None:
    with pytest.raises(AddressError):
        pool_of(1 << 19)


@given(st.integers(0, 3 * PAGE), st.integers(1, 1 << 17))
def test_no_byte_of_the_range_is_lost_but_a_bit_at_the_ends(offset: int, size: int) -> None:
    pool = pool_of(size, at=BASE + offset)

    assert size - 2 * 64 < pool.free <= size


def test_blocks_never_overlap_and_all_come_back(rng: random.Random) -> None:
    pool = pool_of((1 << 17) - 192, at=BASE + 64)
    pool.settle()
    whole, largest = pool.free, pool.largest
    held: dict[int, int] = {}
    for _ in range(3000):
        size = rng.choice([0, 1, 64, 100, 700, PAGE, 5000, 20000])
        if rng.random() < 0.45 and held:
            oldest = rng.choice(list(held))
            pool.release(oldest, held.pop(oldest))
        elif (address := pool.allocate(size)) is not None:
            held[address] = size
        ends = sorted((start, start + size) for start, size in held.items())
        assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    for address, size in held.items():
        pool.release(address, size)

    assert pool.free == whole
    pool.settle()
    assert pool.largest == largest
