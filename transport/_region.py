"""A region: some bytes of a shared file, mapped, at an address of the guest.

A peer may shrink a file that it shares, and touching what is gone raises SIGBUS. So what a peer
could take away is *guarded*: copies of it run inside the core's guard and end in `MemoryGone`, and
there are no views of it. Only a seal against shrinking rules that out, and only for pages of the
usual size. A hole can be punched into a sealed file too; it reads as zeros, unless it needs a huge
page and none is left: then the touch raises SIGBUS after all (tried).
"""

from __future__ import annotations

import errno
import fcntl
import functools
import mmap
import os
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from ._core import ffi, lib
from ._errors import PeerError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Region",)

ADDRESSES = 1 << 64
"""Guest-physical addresses are below this."""

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
OURS = {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE}  # not for what the peer's file is
_WITHOUT_HUGE = (
    "cannot take {} bytes of huge pages ({}): set some aside, as root, with"
    " `sysctl vm.nr_hugepages=N`, or do without huge=True"
)


class Mapping:
    """Some bytes of a file in this process, for as long as anyone holds this object or a view."""

    __slots__ = ("addr", "guarded", "host", "memory", "size")

    def __init__(
        self, fd: int, offset: int, size: int, *, addr: int, page: int, guarded: bool
    ) -> None:
        """Map from the page that `offset` lies in on. Raises OSError."""
        skip = offset % page
        length = -(-(skip + size) // page) * page  # huge pages are unmapped only as a whole
        base = lib.pv_map(fd, offset - skip, length)
        if not base:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        # `memory` keeps the mapping and so does each view of it; `host`, a bare pointer, does not.
        mapped = ffi.gc(base, functools.partial(_unmap, length))
        self.memory = memoryview(ffi.buffer(mapped, length))[skip : skip + size]
        self.host = base + skip
        self.addr = addr
        self.size = size
        self.guarded = guarded


def _unmap(length: int, base: object) -> None:
    lib.pv_unmap(base, length)


class Region:
    """A range of guest-physical memory, `size` bytes from `addr` on: a piece of a file, mapped.

    Made by `create` or `foreign`. It owns its file descriptor. A table, a slice, a view or a
    running copy keeps the bytes mapped for itself, whatever becomes of the region.
    """

    addr: int
    size: int

    fd: int
    """The file, to hand to a peer together with `offset`. Valid until `close`."""

    offset: int
    """Where in the file the region begins."""

    sealed: bool
    """Whether the file can never shrink again."""

    guarded: bool
    """Whether the bytes may vanish: no seal forbids it, or they are a peer's huge pages."""

    def __init__(self, mapping: Mapping, fd: int, *, offset: int, sealed: bool) -> None:
        self.addr = mapping.addr
        self.size = mapping.size
        self.fd = fd
        self.offset = offset
        self.sealed = sealed
        self.guarded = mapping.guarded
        self._mapping: Mapping | None = mapping
        self._close_fd = weakref.finalize(self, os.close, fd)

    @classmethod
    def create(cls, size: int, *, addr: int, huge: bool = False) -> Self:
        """Make a region of new, zeroed memory that cannot change its size.

        `huge` takes huge pages, which must be set aside beforehand. A peer that gets such a
        descriptor must be trusted: it can give the pages back, and the next touch may kill us.

        Raises ValueError for a size or address that cannot be, OSError if there is no memory.
        """
        if not _is_range(addr, size) or size > sys.maxsize:
            raise ValueError(f"no region can have {size} bytes at guest address {addr:#x}")
        try:
            return cls._create(size, addr, huge)
        except OSError as error:
            if not huge:
                raise
            raise OSError(error.errno, _WITHOUT_HUGE.format(size, error.strerror)) from None

    @classmethod
    def _create(cls, size: int, addr: int, huge: bool) -> Self:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | (os.MFD_HUGETLB if huge else 0)
        fd = os.memfd_create("paravirt", flags)
        try:
            page = _page_size(fd)
            if huge:
                _check_whole(size, page)
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
            mapping = Mapping(fd, 0, size, addr=addr, page=page, guarded=False)
        except BaseException:
            os.close(fd)
            raise
        return cls(mapping, fd, offset=0, sealed=True)

    @classmethod
    def foreign(cls, fd: int, *, addr: int, size: int, offset: int = 0) -> Self:
        """Map a piece of a file that a peer sent. Takes over `fd`, which is closed on failure too.

        Raises PeerError if the piece does not lie within the file, or the file or the numbers are
        not fit to be memory; OSError if this process has no room for it.
        """
        try:
            return cls._adopt(fd, addr, size, offset)
        except BaseException:
            with suppress(OSError):
                os.close(fd)
            raise

    @classmethod
    def _adopt(cls, fd: int, addr: int, size: int, offset: int) -> Self:
        # Seals first: a file that is sealed by now cannot be made shorter after its size was read.
        seals = _seals(fd)
        length = os.fstat(fd).st_size
        if not _is_range(addr, size):
            raise PeerError(f"no memory region can have {size} bytes at guest address {addr:#x}")
        if offset < 0 or size > length - offset:
            raise PeerError(
                f"memory region at {addr:#x}: the file has {length} bytes, too few for {size}"
                f" from offset {offset} on"
            )
        sealed = seals is not None and bool(seals & fcntl.F_SEAL_SHRINK)
        page = mmap.PAGESIZE if seals is None else _page_size(fd)
        guarded = not sealed or page > mmap.PAGESIZE
        try:
            mapping = Mapping(fd, offset, size, addr=addr, page=page, guarded=guarded)
        except OSError as error:
            if error.errno in OURS:
                raise
            text = f"memory region at {addr:#x}: the file cannot be mapped: {error.strerror}"
            raise PeerError(text) from error
        return cls(mapping, fd, offset=offset, sealed=sealed)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._mapping is None

    def close(self) -> None:
        """Close the file and let go of the bytes; whoever else uses them keeps them. Idempotent."""
        self._mapping = None
        self._close_fd()

    def mapping(self) -> Mapping:
        """Return the bytes, for a table. Raises ValueError once the region is closed."""
        if self._mapping is None:
            raise ValueError(f"{self} is closed")
        return self._mapping

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        notes = " guarded" * self.guarded + " closed" * self.closed
        return f"<Region {self.addr:#x}..{self.addr + self.size - 1:#x}{notes}>"


def _is_range(addr: int, size: int) -> bool:
    return addr >= 0 and 0 < size <= ADDRESSES - addr


def _check_whole(size: int, page: int) -> None:
    if size % page:
        raise ValueError(f"{size} bytes are no multiple of the huge page size, {page} bytes")


def _seals(fd: int) -> int | None:
    """Return the seals of a file that can have some (tmpfs, hugetlbfs), None for any other."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return None


def _page_size(fd: int) -> int:
    """Return the size of the pages that a file of tmpfs or hugetlbfs is made of."""
    return max(mmap.PAGESIZE, os.fstatvfs(fd).f_bsize)
