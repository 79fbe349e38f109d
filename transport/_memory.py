"""Guest-physical memory: a table of regions, and the only ways in.

Bytes are copied in and out by `Memory.read` and `Memory.write`, or used in place as slices
(`Memory.translate`) and views (`Memory.view`). No address of this process is ever handed out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from ._errors import AddressError, check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed import ReadableBuffer

    from ._region import Mapping, Region

__all__ = ("Memory", "Slice")

_BYTES = ffi.typeof("char[]")
_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of guest memory within one region, which stays mapped while the slice exists."""

    pin: Mapping
    addr: int
    size: int

    @property
    def guarded(self) -> bool:
        """Whether the bytes may vanish, so that there is no view of them."""
        return self.pin.guarded

    def view(self) -> memoryview:
        """Return the bytes themselves, to read and write. Raises BufferError if guarded."""
        if self.pin.guarded:
            raise BufferError(
                f"no view of guest memory at {self.addr:#x}: its owner can take it away while it is"
                " in use; copy with Memory.read and Memory.write"
            )
        start = self.addr - self.pin.addr
        return self.pin.memory[start : start + self.size]


class MemoryTable:
    """The regions at one moment, as the core wants them. Keeps them mapped; never changes."""

    __slots__ = ("_array", "c", "guarded", "mappings", "size")

    c: Any
    """`struct pv_memory *`, valid while the table exists."""

    guarded: bool
    """Whether the core must touch it inside a guard."""

    def __init__(self, mappings: Iterable[Mapping]) -> None:
        """Sort the regions and look for overlaps, which raise ValueError."""
        self.mappings: tuple[Mapping, ...] = tuple(sorted(mappings, key=lambda m: m.addr))
        for low, high in itertools.pairwise(self.mappings):
            if low.addr + low.size > high.addr:
                raise ValueError(
                    f"memory regions overlap: {low.size} bytes at {low.addr:#x}"
                    f" and {high.size} at {high.addr:#x}"
                )
        self.size = sum(m.size for m in self.mappings)
        self.guarded = any(m.guarded for m in self.mappings)
        rows = [(m.addr, m.size, m.host, lib.PV_REGION_GUARDED * m.guarded) for m in self.mappings]
        self._array = ffi.new("struct pv_region[]", rows)
        flags = lib.PV_MEMORY_GUARDED if self.guarded else 0
        self.c = ffi.new("struct pv_memory *", (self._array, len(rows), flags))

    def slices(self, addr: int, n: int) -> list[Slice]:
        """Return the pieces of a range that is wholly mapped. Raises AddressError if it is not."""
        if n < 0:
            raise ValueError(f"a range of {n} bytes")
        hint = ffi.new("uint32_t *")
        try:
            check(lib.pv_memory_check(self.c, addr, n, hint))
        except OverflowError:
            raise AddressError from None
        found: list[Slice] = []
        while n:
            index: int = lib.pv_memory_find(self.c, addr, hint[0])
            mapping = self.mappings[index]
            size = min(n, mapping.addr + mapping.size - addr)
            found.append(Slice(mapping, addr, size))
            addr += size
            n -= size
        return found


class Memory:
    """What a guest has as memory: regions that do not overlap, hundreds of them if need be.

    Ranges may cross from one region into the next. Any thread may read and write; one thread at a
    time may add and remove.
    """

    def __init__(self, regions: Iterable[Region] = ()) -> None:
        """Start with some regions; raises as `add` does."""
        self._mappings: dict[Region, Mapping] = {}
        self._table = MemoryTable(())
        self._replace({region: region.mapping() for region in regions})

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions, in the order in which they came."""
        return tuple(self._mappings)

    @property
    def table(self) -> MemoryTable:
        """The regions as they are now. Hold it for as long as the core uses it."""
        return self._table

    @property
    def guarded(self) -> bool:
        """Whether any of it may vanish."""
        return self._table.guarded

    def add(self, region: Region) -> None:
        """Add a region, which stays yours to close.

        Raises ValueError if it overlaps another or is closed; the memory is then as it was.
        """
        mappings = self._mappings.copy()
        if region in mappings:
            raise ValueError(f"{region} is part of this memory already")
        self._replace({**mappings, region: region.mapping()})

    def remove(self, region: Region) -> None:
        """Take a region out; it stays mapped until its last user is gone. Raises ValueError."""
        mappings = self._mappings.copy()
        if mappings.pop(region, None) is None:
            raise ValueError(f"{region} is not part of this memory")
        self._replace(mappings)

    def _replace(self, mappings: dict[Region, Mapping]) -> None:
        table = MemoryTable(mappings.values())
        if table.guarded and lib.pv_guard_install() < 0:
            raise RuntimeError("the handler of SIGBUS was replaced by too many others")
        self._mappings = mappings
        self._table = table

    def read(self, addr: int, n: int) -> bytes:
        """Return a copy of `n` bytes.

        Raises AddressError if any of them is not in guest memory, MemoryGone if the peer took some
        away, ValueError for a negative number.
        """
        table = self._table
        if n > table.size:
            raise AddressError  # before as much is allocated
        data = _uncleared(_BYTES, n)
        try:
            rc = lib.pv_guarded_read(table.c, data, addr, n)
        except OverflowError:  # no 64-bit number
            raise AddressError from None
        if rc:
            check(rc)
        copy: bytes = ffi.unpack(data, n)
        return copy

    def write(self, addr: int, data: ReadableBuffer) -> None:
        """Copy `data`, a contiguous buffer, to `addr`.

        Raises AddressError, with nothing written, if not all of it would land in guest memory;
        MemoryGone, with some of it written, if the peer took some of the memory away.
        """
        table = self._table
        source = data if isinstance(data, bytes) else ffi.from_buffer(data)
        try:
            rc = lib.pv_guarded_write(table.c, addr, source, len(source))
        except OverflowError:
            raise AddressError from None
        if rc:
            check(rc)

    def translate(self, addr: int, n: int) -> list[Slice]:
        """Return the range as slices, each in one region and pinned. Raises AddressError."""
        return self._table.slices(addr, n)

    def view(self, addr: int, n: int) -> list[memoryview]:
        """Return the range as views of the memory itself.

        Raises AddressError, or BufferError if a part of it is guarded.
        """
        return [piece.view() for piece in self.translate(addr, n)]

    def close(self) -> None:
        """Close all regions and forget them. Idempotent."""
        regions = self.regions
        self._replace({})
        for region in regions:
            region.close()
