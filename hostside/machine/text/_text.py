"""What is executable in a guest's memory, and what it was when it was loaded."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Self

import msgspec

from .. import _elf
from .._extent import Extent
from .._kvm import ffi, lib
from ._report import ChangedPage, TextReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from paravirt.transport import Memory

__all__ = ("Text", "measure")

PAGE: Final = 4096
_SHOWN: Final = 16  # bytes of a change, at most: an instruction has up to 15


class Text(msgspec.Struct, frozen=True):
    """The executable memory of a guest as it was measured."""

    extents: tuple[Extent, ...]
    """The machine's ring-0 code, and what the payload's file says is executable."""
    shared: int
    """A page of it that is also to be written; 0: there is none."""

    @classmethod
    def of(cls, program: _elf.Program) -> Self:
        """Measure what a program is before it runs."""
        stubs = Extent(lib.PV_STUBS, bytes(ffi.buffer(lib.pv_stub_code(), lib.pv_stub_size())))
        segments = program.segments
        text = [Extent(row.start, row.image()) for row in segments if row.executable]
        return cls((stubs, *text), _shared_page(segments))

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all bytes and of where they lie."""
        return _digest((extent.address, extent.data) for extent in self.extents)

    def compare(self, memory: Memory, doorbells: tuple[str, ...]) -> TextReport:
        """Hold memory as it is now against what was measured. Raises PeerError outside of it."""
        found = [memory.read(extent.address, len(extent.data)) for extent in self.extents]
        pairs = list(zip(self.extents, found, strict=True))
        return TextReport(
            measured=self.digest,
            found=_digest((extent.address, data) for extent, data in pairs),
            pages=len({page for extent in self.extents for page in _pages(extent)}),
            changed=tuple(page for extent, data in pairs for page in _changes(extent, data)),
            doorbells=doorbells,
        )


def measure(elf: Path | bytes) -> str:
    """Return the digest that a machine measures when it loads a payload (`TextReport.measured`).

    It covers the executable segments and the machine's own ring-0 code, and where they lie.

    Raises ValueError for what is no static x86-64 program, or can be in no machine; OSError if the
    file cannot be read; RuntimeError without pyelftools.
    """
    return Text.of(_elf.read(elf)).digest


def _digest(rows: Iterator[tuple[int, bytes]]) -> str:
    digest = hashlib.sha256()
    for address, data in rows:
        digest.update(f"{address:x}-{address + len(data):x}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _pages(extent: Extent) -> range:
    return _pages_of(extent.address, extent.end)


def _pages_of(start: int, end: int) -> range:
    return range(start // PAGE * PAGE, -(-end // PAGE) * PAGE, PAGE)


def _changes(extent: Extent, found: bytes) -> Iterator[ChangedPage]:
    if found == extent.data:
        return
    for page in _pages(extent):
        start = max(page - extent.address, 0)
        stop = page + PAGE - extent.address
        before, after = extent.data[start:stop], found[start:stop]
        differs = [
            at for at, pair in enumerate(zip(before, after, strict=True)) if len({*pair}) > 1
        ]
        if differs:
            shown = slice(differs[0], min(differs[0] + _SHOWN, differs[-1] + 1))
            yield ChangedPage(
                address=page,
                first=extent.address + start + differs[0],
                before=before[shown].hex(" "),
                after=after[shown].hex(" "),
            )


def _shared_page(segments: Sequence[_elf.Segment]) -> int:
    texts = [_pages_of(row.start, row.end) for row in segments if row.executable]
    others = [_pages_of(row.start, row.end) for row in segments if row.writable]
    common = (max(text[0], other[0]) for text in texts for other in others if _meet(text, other))
    return next(common, 0)


def _meet(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)
