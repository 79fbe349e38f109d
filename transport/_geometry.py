"""Where the three areas of a split virtqueue lie (virtio 1.4, 2.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ._core import ffi, lib
from ._features import Feature
from ._queues import is_queue_size, ring_sizes

if TYPE_CHECKING:
    from typing import Self


class RingGeometry(msgspec.Struct, frozen=True):
    """What driver and device agreed on for one virtqueue; fixed until it is started again."""

    size: int
    """Descriptors, a power of two up to 32768 (2.7)."""
    desc: int
    """Guest-physical address of the descriptor table, aligned 16."""
    driver: int
    """Guest-physical address of the driver ring, aligned 2."""
    device: int
    """Guest-physical address of the device ring, aligned 4."""
    features: int = 0
    """The negotiated feature bits."""

    @classmethod
    def contiguous(cls, size: int, address: int, features: int = 0) -> Self:
        """Place the three areas one behind the other, the device's at the start of a cache line."""
        parts = ring_sizes(size)
        driver = address + parts.desc
        device = _line(driver + parts.driver)
        return cls(size=size, desc=address, driver=driver, device=device, features=features)

    @property
    def end(self) -> int:
        """The address after the last byte of a `contiguous` ring."""
        return self.device + ring_sizes(self.size).device

    def to_c(self) -> Any:
        """Return it as the C core's `struct pv_geometry *`.

        Raises ValueError for a size that 2.7 forbids, before anybody allocates that much.
        """
        if not is_queue_size(self.size):
            raise ValueError(f"a queue of size {self.size}, which is no power of two up to 32768")
        features = 0
        if self.features & Feature.RING_INDIRECT_DESC:
            features |= lib.PV_RING_INDIRECT
        if self.features & Feature.RING_EVENT_IDX:
            features |= lib.PV_RING_EVENT_IDX
        return ffi.new(
            "struct pv_geometry *", (self.desc, self.driver, self.device, self.size, features)
        )


def _line(address: int) -> int:
    """Round up to a cache line, so that two areas written by different sides share none."""
    return (address + 63) & ~63
