"""Holes and zeroes in a file, by fallocate(2); Python's `os` has no way to ask for them.

Both raise `OSError`, with EOPNOTSUPP where the file system or the block device cannot do it, and
neither changes the size of the file. They block until it is done, without the interpreter lock.
"""

from __future__ import annotations

from ._core import lib
from ._errors import check


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Give the space of a range back; it reads as zeroes from now on."""
    check(lib.pv_host_punch_hole(fd, offset, size))


def zero_range(fd: int, offset: int, size: int) -> None:
    """Make a range read as zeroes, with its space kept."""
    check(lib.pv_host_zero_range(fd, offset, size))
