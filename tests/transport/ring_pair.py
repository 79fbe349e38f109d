"""Two ends of a virtqueue, each the real one or the model's, in memory made for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from paravirt.transport._device_ring import DeviceRing
from paravirt.transport._driver_ring import DriverRing
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._memory import Memory

from .fenced import PAGE, fenced_region
from .hand_ring import start_at
from .ring_model import ModelDriver, Segment, SharedRing
from .ring_model_device import ModelDevice

if TYPE_CHECKING:
    from collections.abc import Sequence

RINGS, TABLES, DATA = 0x10000, 0x10000000, 0x20000000
HOLE = 0x30000000
CELL = 61
"""Bytes of one cell of the data; odd, so that one lies over the border of two regions."""
CELLS = 2 * PAGE // CELL


class DriverEnd(Protocol):
    """What `DriverRing` and `ModelDriver` have in common."""

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment] = ()) -> int | None: ...
    def publish(self) -> bool: ...
    def reap(self) -> list[int]: ...
    def pending(self) -> bool: ...
    def arm(self) -> bool: ...
    def disarm(self) -> None: ...


class DeviceEnd(Protocol):
    """What `DeviceRing` and `ModelDevice` have in common."""

    call_due: bool
    stalled: bool

    @property
    def indices(self) -> tuple[int, int]: ...
    def cycle(self, done: list[int], lengths: list[int], spin_ns: int = 0) -> list[int]: ...
    def read(self, token: int, offset: int, size: int) -> bytes: ...
    def write(self, token: int, offset: int, data: bytes) -> int: ...
    def pending(self) -> bool: ...
    def arm(self) -> bool: ...
    def disarm(self) -> None: ...


class RingPair:
    """A virtqueue between two ends, which can be started anew at any index."""

    def __init__(self, size: int, features: int, *, model_driver: bool, model_device: bool) -> None:
        self.geometry = RingGeometry.contiguous(size, RINGS, features)
        self.table_max = min(size, 64)
        tables = 16 * size * self.table_max
        self.memory = Memory(
            [
                fenced_region(_pages(self.geometry.end - RINGS), addr=RINGS),
                fenced_region(_pages(tables), addr=TABLES),
                fenced_region(PAGE, addr=DATA),
                fenced_region(PAGE, addr=DATA + PAGE),
            ]
        )
        self.words = SharedRing(self.memory, self.geometry)
        self.model_driver = model_driver
        self.model_device = model_device

    def start_driver(self, index: int) -> DriverEnd:
        """Lay the ring out anew, both indices at `index`."""
        if self.model_driver:
            return ModelDriver(
                self.memory, self.geometry, tables=TABLES, table_max=self.table_max, index=index
            )
        driver = DriverRing(self.memory, self.geometry, tables=TABLES, table_max=self.table_max)
        start_at(driver, self.memory, index)
        return driver

    def start_device(self, avail: int, used: int, generation: int) -> DeviceEnd:
        """Start the device's end on the ring as it is."""
        if self.model_device:
            return ModelDevice(
                self.memory, self.geometry, avail=avail, used=used, generation=generation
            )
        return DeviceRing(self.memory, self.geometry, avail=avail, used=used, generation=generation)

    def needed(self, buffers: int) -> int:
        """Return how many descriptors a chain of so many buffers takes."""
        indirect = self.words.indirect and 1 < buffers <= self.table_max
        return 1 if indirect else buffers


def cell(index: int) -> int:
    """Return the address of a cell."""
    return DATA + CELL * index


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
