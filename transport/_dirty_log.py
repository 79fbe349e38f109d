"""The log of dirty pages: what a device wrote, for whoever migrates its guest while it runs.

One bit for each 4 KiB of the guest's addresses, set after the write. The bits are in a file of the
peer's, which may shrink it, so that a mark can end in `MemoryGone` as a write to memory can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from ._errors import PeerError, check
from ._memory import Memory
from ._region import Region

if TYPE_CHECKING:
    from paravirt.doorbells import Doorbell

PAGE = 4096
"""Bytes of guest memory that a bit stands for, whatever the size of pages here."""


class DirtyLog:
    """A bitmap in a peer's file, in which a `DeviceRing` marks the pages that it writes."""

    def __init__(self, fd: int, *, size: int, offset: int = 0) -> None:
        """Map `size` bytes of a file. Takes over `fd`, which is closed on failure too.

        Raises `PeerError` if the file has fewer, `OSError` if this process has no room for them.
        """
        region = Region.foreign(fd, addr=0, size=size, offset=offset)
        with region:
            self._table = Memory([region]).table
        self._bell: Doorbell | None = None
        self._c = ffi.new("struct pv_log *", (self._table.c, -1))
        self.end = 8 * PAGE * size
        """The guest addresses below this have a bit."""

    def ring_after_marks(self, bell: Doorbell | None) -> None:
        """Ring an eventfd after each mark, or none; it stays the caller's to close.

        No ring may use the log meanwhile.
        """
        fd = None if bell is None else bell.fileno()
        self._bell = bell
        self._c.bell = -1 if fd is None else fd

    def mark(self, addr: int, size: int) -> None:
        """Mark the pages of a range. Raises `AddressError` if one has no bit, or `MemoryGone`."""
        check(lib.pv_log_mark(self._c, addr, size))

    def start(self, ring: Any, used: int | None, size: int) -> None:
        """Have the core log what it writes for a `struct pv_device_ring *`.

        `used` is where the log has the used ring of `size` bytes, None to leave that out. Raises
        `PeerError` if the log has no bit for it.
        """
        if used is not None and used + size > self.end:
            raise PeerError(
                f"a used ring is logged at {used:#x}, the log of dirty pages ends at {self.end:#x}"
            )
        lib.pv_log_start(ring, self._c, lib.PV_LOG_NO_ADDRESS if used is None else used)
