"""Guest memory without the pages that are zero."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from .._extent import Extent
from ._document import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.transport import Memory

__all__ = ("check_pages", "put_pages", "take_pages")

_PAGE: Final = 4096
_ZEROS: Final = bytes(_PAGE)
_STRIDE: Final = 2 << 20
"""Bytes looked at in one go, which bounds an extent; a machine's memory is a multiple of it."""


def take_pages(memory: Memory, size: int) -> tuple[Extent, ...]:
    """Return the pages of the first `size` bytes that are not zero."""
    extents: list[Extent] = []
    for base in range(0, size, _STRIDE):
        data = memory.read(base, _STRIDE)
        used = [at for at in range(0, _STRIDE, _PAGE) if data[at : at + _PAGE] != _ZEROS]
        for _, run in groupby(enumerate(used), lambda item: item[1] - _PAGE * item[0]):
            places = [at for _, at in run]
            extents.append(Extent(base + places[0], data[places[0] : places[-1] + _PAGE]))
    return tuple(extents)


def check_pages(extents: Sequence[Extent], size: int) -> None:
    """Raise SnapshotError for pages outside of memory, or out of order."""
    end = 0
    for extent in extents:
        if not end <= extent.address <= size - len(extent.data):
            raise SnapshotError(
                f"{len(extent.data)} bytes of memory at {extent.address:#x}: they lie outside of"
                f" the {size} bytes, or over others"
            )
        end = extent.address + len(extent.data)


def put_pages(memory: Memory, extents: Sequence[Extent], size: int) -> None:
    """Fill memory that is all zeros. Raises SnapshotError before anything is written."""
    check_pages(extents, size)
    for extent in extents:
        memory.write(extent.address, extent.data)
