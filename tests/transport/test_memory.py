"""Translation and copies, against a model that knows each byte by its address."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from paravirt.transport._core import ffi, lib
from paravirt.transport._errors import AddressError, Cause
from paravirt.transport._memory import Memory
from paravirt.transport._region import ADDRESSES, SEALS, Region

if TYPE_CHECKING:
    from collections.abc import Generator

Layout = list[tuple[int, int]]  # address and size of each region, ascending
PAGE = 4096
TOP = ADDRESSES - 1


def sealed_file(size: int) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd


@contextlib.contextmanager
def memory_of(layout: Layout) -> Generator[Memory]:
    """Give each region a piece of one file, in reverse, so that neighbours are never adjacent."""
    fd = sealed_file(sum(size for _, size in layout) or 1)
    offset = 0
    regions: list[Region] = []
    for addr, size in reversed(layout):
        regions.append(Region.foreign(os.dup(fd), addr=addr, size=size, offset=offset))
        offset += size
    os.close(fd)
    memory = Memory(regions)
    try:
        yield memory
    finally:
        memory.close()


class Model:
    """Guest memory as it looks from the guest: a number at each address that exists."""

    def __init__(self, layout: Layout) -> None:
        self.bytes = {at: 0 for addr, size in layout for at in range(addr, addr + size)}

    def read(self, addr: int, n: int) -> bytes | None:
        found = [self.bytes.get(at) for at in range(addr, addr + n)]
        return None if None in found else bytes(byte or 0 for byte in found)

    def write(self, addr: int, data: bytes) -> bool:
        if self.read(addr, len(data)) is None:
            return False
        self.bytes.update(enumerate(data, addr))
        return True


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Make many small regions, adjacent or nearly so, anywhere, also up to the last address."""
    pieces = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20)), max_size=12))
    length = sum(gap + size for gap, size in pieces)
    at = draw(st.sampled_from([0, 1, PAGE - 3, 1 << 32, ADDRESSES - length]))
    layout: Layout = []
    for gap, size in pieces:
        layout.append((at + gap, size))
        at += gap + size
    return layout


@st.composite
def ranges(draw: st.DrawFn, layout: Layout) -> tuple[int, int]:
    """Make a range that begins near some region."""
    near = draw(st.sampled_from(layout or [(0, 1)]))
    addr = near[0] + draw(st.integers(-3, near[1] + 3))
    return max(0, min(addr, TOP)), draw(st.integers(0, 60))


@given(st.data())
def test_reads_and_writes_are_the_models(data: st.DataObject) -> None:
    layout = data.draw(layouts())
    model = Model(layout)
    with memory_of(layout) as memory:
        for _ in range(data.draw(st.integers(1, 8))):
            addr, n = data.draw(ranges(layout))
            content = data.draw(st.binary(min_size=n, max_size=n))
            if model.write(addr, content):
                memory.write(addr, content)
            else:
                with pytest.raises(AddressError):
                    memory.write(addr, content)
        for addr, size in layout:
            assert memory.read(addr, size) == model.read(addr, size)


@given(st.data())
def test_slices_are_the_range_or_nothing(data: st.DataObject) -> None:
    layout = data.draw(layouts())
    addr, n = data.draw(ranges(layout))
    with memory_of(layout) as memory:
        if Model(layout).read(addr, n) is None:
            with pytest.raises(AddressError):
                memory.translate(addr, n)
            return
        slices = memory.translate(addr, n)

        assert sum(piece.size for piece in slices) == n
        for piece in slices:
            assert piece.addr == addr
            assert any(a <= piece.addr < piece.addr + piece.size <= a + s for a, s in layout)
            piece.view()[:] = bytes(piece.size * [len(slices)])
            addr += piece.size
        assert memory.read(addr - n, n) == bytes(n * [len(slices)])


def huge_layouts() -> st.SearchStrategy[Layout]:
    """Make regions of any size between a few addresses, most of them at the edges of 64 bits."""
    edges = st.sampled_from([0, 1, 2, PAGE, 1 << 31, 1 << 32, 1 << 63, ADDRESSES - PAGE, TOP])
    cuts = st.lists(edges | st.integers(0, TOP), min_size=2, max_size=10, unique=True)

    def regions(points: list[int], ends: list[bool]) -> Layout:
        points = sorted([*points, ADDRESSES])
        spans = itertools.pairwise(points)
        return [(a, b - a) for (a, b), kept in zip(spans, ends, strict=False) if kept]

    return st.builds(regions, cuts, st.lists(st.booleans(), min_size=10, max_size=10))


def contiguous(layout: Layout, addr: int) -> int:
    """Return how many bytes are mapped from an address on, whatever region they are in."""
    end = addr
    for start, size in layout:
        if start <= end < start + size:
            end = start + size
    return end - addr


@given(layout=huge_layouts(), data=st.data())
def test_no_sum_wraps_at_the_edges_of_64_bits(layout: Layout, data: st.DataObject) -> None:
    """Only addresses are computed here, nothing is touched."""
    rows = ffi.new("struct pv_region[]", [(a, min(s, TOP), ffi.NULL, 0) for a, s in layout])
    memory = ffi.new("struct pv_memory *", (rows, len(layout), 0))
    points = [0, TOP, *(p for a, s in layout for p in (a, a + s - 1, min(a + s, TOP)))]
    addr = data.draw(st.sampled_from(points) | st.integers(0, TOP))
    run = contiguous([(a, min(s, TOP)) for a, s in layout], addr)
    near = st.integers(max(run - 2, 0), min(run + 2, TOP))
    n = data.draw(near | st.sampled_from([0, 1, TOP, TOP - addr, ADDRESSES - addr - 1]))
    hint = ffi.new("uint32_t *", data.draw(st.integers(0, 12) | st.just(0xFFFFFFFF)))

    assert (lib.pv_memory_check(memory, addr, n, hint) == 0) == (n <= run)
    inside = [i for i, (a, s) in enumerate(layout) if a <= addr < a + min(s, TOP)]
    assert lib.pv_memory_find(memory, addr, hint[0]) == (inside[0] if inside else -1)


def test_hundreds_of_regions_read_as_one() -> None:
    """509 is what vhost-user with CONFIGURE_MEM_SLOTS gives a guest."""
    sizes = [random.Random(509).randrange(1, 2 * PAGE) for _ in range(509)]
    starts = [PAGE + sum(sizes[:i]) for i in range(509)]
    content = random.Random(1).randbytes(sum(sizes))
    with memory_of(list(zip(starts, sizes, strict=True))) as memory:
        memory.write(PAGE, content)

        assert memory.read(PAGE, len(content)) == content
        assert len(memory.translate(PAGE, len(content))) == 509
        for addr in random.Random(2).sample(range(len(content) - 30000), 50):
            assert memory.read(PAGE + addr, 30000) == content[addr : addr + 30000]
        with pytest.raises(AddressError):
            memory.read(PAGE, len(content) + 1)


def test_a_refused_write_changes_nothing() -> None:
    with memory_of([(0, 10), (10, 10), (21, 10)]) as memory:
        with pytest.raises(AddressError):
            memory.write(5, b"x" * 16)

        assert memory.read(0, 20) == bytes(20)


@pytest.mark.parametrize("addr", [-1, ADDRESSES, ADDRESSES + PAGE])
def test_an_address_beyond_64_bits_is_an_address_error(addr: int) -> None:
    with memory_of([(0, PAGE)]) as memory:
        for use in (memory.translate, memory.read, memory.view):
            with pytest.raises(AddressError):
                use(addr, 1)
        with pytest.raises(AddressError):
            memory.write(addr, b"x")


def test_an_impossible_length_is_refused_before_it_is_allocated() -> None:
    with memory_of([(0, PAGE)]) as memory:
        for n in (1 << 62, ADDRESSES, ADDRESSES + 1):
            with pytest.raises(AddressError):
                memory.read(0, n)
            with pytest.raises(AddressError):
                memory.translate(0, n)


def test_a_negative_length_is_the_callers_mistake() -> None:
    with memory_of([(0, PAGE)]) as memory:
        for use in (memory.translate, memory.read, memory.view):
            with pytest.raises(ValueError):
                use(0, -1)


def test_nothing_can_be_read_anywhere() -> None:
    assert Memory().read(77, 0) == b""
    assert Memory().translate(77, 0) == []


def test_write_takes_any_contiguous_buffer() -> None:
    with memory_of([(0, PAGE)]) as memory:
        memory.write(0, bytearray(b"ab"))
        memory.write(2, memoryview(b"-cd-")[1:3])
        memory.write(4, memoryview(b"efgh").cast("I"))

        assert memory.read(0, 8) == b"abcdefgh"


def test_a_read_only_region_takes_no_write() -> None:
    """It counts as a hole, so that a write which reaches it from its neighbour does nothing."""
    host = ffi.new("uint8_t[]", 20)
    rows = [(0, 10, host, 0), (10, 10, host + 10, lib.PV_REGION_READONLY)]
    regions = ffi.new("struct pv_region[]", rows)
    memory = ffi.new("struct pv_memory *", (regions, 2, 0))
    hint = ffi.new("uint32_t *")

    for addr, n in ((0, 11), (9, 2), (10, 1)):
        assert lib.pv_memory_write(memory, addr, b"x" * n, n, hint) == -Cause.ADDRESS
    assert bytes(host) == bytes(20)
    assert lib.pv_memory_read(memory, host, 10, 10, hint) == 0


@pytest.mark.parametrize(("addr", "size"), [(0, PAGE), (PAGE - 1, 1), (PAGE, 1), (PAGE + 5, 1)])
def test_overlapping_regions_are_refused(addr: int, size: int) -> None:
    with memory_of([(0, PAGE - 1), (PAGE, 20)]) as memory, Region.create(size, addr=addr) as region:
        before = memory.regions
        if addr == PAGE - 1:
            memory.add(region)
            assert region in memory.regions
        else:
            with pytest.raises(ValueError, match="overlap"):
                memory.add(region)
            assert memory.regions == before


def test_a_region_is_added_once() -> None:
    with Region.create(PAGE, addr=0) as region:
        memory = Memory([region])
        with pytest.raises(ValueError, match="already"):
            memory.add(region)


def test_only_what_is_there_can_be_removed() -> None:
    with Region.create(PAGE, addr=0) as region, pytest.raises(ValueError, match="not part"):
        Memory().remove(region)


def test_a_closed_region_cannot_be_added() -> None:
    region = Region.create(PAGE, addr=0)
    region.close()

    with pytest.raises(ValueError, match="closed"):
        Memory().add(region)


def test_a_removed_region_is_no_longer_found() -> None:
    with Region.create(PAGE, addr=0) as low, Region.create(PAGE, addr=PAGE) as high:
        memory = Memory([high, low])
        memory.remove(low)

        assert memory.regions == (high,)
        assert memory.read(PAGE, 1) == b"\0"
        with pytest.raises(AddressError):
            memory.read(PAGE - 1, 2)


def test_a_table_never_changes() -> None:
    with Region.create(PAGE, addr=0) as low, Region.create(PAGE, addr=PAGE) as high:
        memory = Memory([low])
        table = memory.table
        memory.add(high)

        assert memory.table is not table
        assert (table.c.count, memory.table.c.count) == (1, 2)
