"""The driver's end of a split virtqueue, over the C core (virtio 1.4, 2.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from ._errors import check
from ._features import Feature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._geometry import RingGeometry
    from ._memory import Memory

__all__ = ("DriverRing",)

BATCH = 256  # completions taken at once: a full queue of the usual size

Buffer = tuple[int, int, int, int]
"""Address and length of what the device reads, address and length of what it writes."""


class DriverRing:
    """The driver's end: offers chains, takes them back, asks for calls.

    A chain is known by its head until it comes back. One thread at a time may use a ring. It
    fulfils `paravirt.doorbells.Watched`.
    """

    def __init__(
        self, memory: Memory, geometry: RingGeometry, *, tables: int = 0, table_max: int = 0
    ) -> None:
        """Lay out a ring in shared memory: zeroes the driver and the device ring (2.7.10.1).

        `tables` is the address of size * table_max * 16 bytes for indirect tables, used if the
        feature was negotiated; with it a chain takes one descriptor however many buffers it has. 0
        for none.

        Raises `AddressError` for an area outside guest memory and `ValueError` for a size or an
        alignment that 2.7 forbids.
        """
        layout = geometry.to_c()
        self.geometry = geometry
        self.concurrent = True
        """Whether the device may run while this thread spins; if not, `spin` looks once."""
        self._indirect = bool(tables) and bool(geometry.features & Feature.RING_INDIRECT_DESC)
        self._table = memory.table
        self._slots = ffi.new("struct pv_driver_slot[]", geometry.size)
        self._ring = ffi.new("struct pv_driver_ring *")
        self._done = ffi.new("struct pv_used_elem[]", BATCH)
        self._words = ffi.cast("uint32_t *", self._done)
        self._buffers = ffi.new("struct pv_buffer[]", BATCH)
        self._heads = ffi.new("uint16_t[]", BATCH)
        check(
            lib.pv_driver_start(self._ring, self._table.c, layout, self._slots, tables, table_max)
        )

    def add(
        self, readable: Sequence[tuple[int, int]], writable: Sequence[tuple[int, int]] = ()
    ) -> int | None:
        """Add a chain of buffers, each an address and a length.

        Returns its head, or None if the ring is full.
        The device sees it at the next `publish`. Raises `ValueError` for a chain longer than the
        queue (2.7.5.3.1) or of 2^32 bytes (2.7.5.2), and `RingBroken`.
        """
        segments = [(a, n, 0) for a, n in readable] + [(a, n, 1) for a, n in writable]
        rc: int = lib.pv_driver_add(self._ring, segments, len(segments))
        return None if rc == -lib.PV_E_FULL else check(rc)

    def add_many(self, buffers: Sequence[Buffer]) -> list[int]:
        """Add up to `BATCH` requests of one or two buffers.

        Returns the heads of those that fitted.
        """
        array = self._buffers
        count = min(len(buffers), BATCH)
        for i in range(count):
            out_addr, out_len, in_addr, in_len = buffers[i]
            array[i] = (out_addr, in_addr, out_len, in_len)
        count = check(lib.pv_driver_add_many(self._ring, array, count, self._heads))
        heads: list[int] = ffi.unpack(self._heads, count) if count else []
        return heads

    def publish(self) -> bool:
        """Show all added chains to the device; True if it wants a kick (2.7.13)."""
        return bool(lib.pv_driver_publish(self._ring))

    def reap(self) -> list[int]:
        """Take finished chains: a flat list of head, bytes written, head, bytes written...

        The bytes written are at most what was writable (2.7.8.3). Raises `RingBroken` if the device
        returned what it was not given.
        """
        count = check(lib.pv_driver_reap(self._ring, self._done, BATCH))
        flat: list[int] = ffi.unpack(self._words, 2 * count) if count else []
        return flat

    def pending(self) -> bool:
        """Say whether there is a finished chain to take, or an error to be told of by `reap`."""
        return bool(lib.pv_host_driver_spin(self._ring, 0))

    def spin(self, ns: int) -> bool:
        """Look for a finished chain for up to `ns`, without the interpreter lock."""
        return bool(lib.pv_host_driver_spin(self._ring, ns if self.concurrent else 0))

    def arm(self) -> bool:
        """Ask for a call at the next finished chain; full barrier; look again (2.7.7)."""
        return bool(lib.pv_host_driver_arm(self._ring))

    def disarm(self) -> None:
        """Ask for no call (2.7.7)."""
        lib.pv_host_driver_disarm(self._ring)

    @property
    def c(self) -> Any:
        """The core's `struct pv_driver_ring *`, for loops in C."""
        return self._ring

    @property
    def in_flight(self) -> int:
        """Chains that the device has now."""
        count: int = self._ring.in_flight
        return count

    @property
    def room(self) -> int:
        """How many requests `add_many` may take now; it takes fewer of two buffers each."""
        free = self.free
        return min(BATCH, free if self._indirect else (free + 1) // 2)

    @property
    def free(self) -> int:
        """Descriptors not in use."""
        count: int = self._ring.free_count
        return count

    @property
    def indices(self) -> tuple[int, int]:
        """The available index to fill next and the used index to take next."""
        ring: Any = self._ring
        return ring.avail, ring.last_used
