"""Plain disk requests, carried out in C: taken, done and given back many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from ._errors import check

if TYPE_CHECKING:
    from ._device_ring import DeviceRing

__all__ = ("PlainDisk",)

_MORE: int = lib.PV_DISK_MORE
_LEAVE = -1


class PlainDisk:
    """Reads and writes of whole sectors of a file, for any number of rings (virtio 1.4, 5.2.6).

    A request in Python costs 1.5 us, as much as the kernel takes for 4 KiB of the page cache.
    """

    def __init__(self) -> None:
        self._c: Any = ffi.new("struct pv_disk *")

    def run(
        self,
        ring: DeviceRing,
        fd: int,
        size: int,
        reads: int | None,
        writes: int | None,
        spin_ns: int,
    ) -> bool:
        """Carry out what the ring took last and what comes behind it, for some 50 us.

        The ring has to `peek` 16 bytes, and all that it took last must be in hand and untouched.
        `size` is the file's in bytes; `reads` and `writes` are flags of preadv2 and pwritev2, None
        to leave those requests alone. Looks for more for up to `spin_ns`, without the interpreter
        lock. Chains are given back, with their status, and published.

        Returns whether to call again at once. If not, the first of `ring.rest()` is for somebody
        else: anything but a plain request, or one that failed or was done in part. Sets `call_due`,
        `stalled` and `rejects` of the ring. Raises `RingBroken` or `MemoryGone`.
        """
        c = self._c
        c.fd, c.size = fd, size
        c.read_flags = _LEAVE if reads is None else reads
        c.write_flags = _LEAVE if writes is None else writes
        c.wrote = 0
        rc: int = lib.pv_host_disk_run(ring.turn, c, spin_ns if ring.concurrent else 0)
        ring.note(max(0, rc))
        check(rc)
        return rc & _MORE != 0

    @property
    def wrote(self) -> bool:
        """Whether the last `run` wrote to the file, or tried to."""
        return bool(self._c.wrote)
