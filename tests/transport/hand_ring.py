"""A driver without scruples: it writes into a ring what it is told, true or not."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from .ring_model import INDIRECT, NEXT, WRITE, SharedRing

if TYPE_CHECKING:
    from paravirt.transport._driver_ring import DriverRing
    from paravirt.transport._geometry import RingGeometry
    from paravirt.transport._memory import Memory

__all__ = ["INDIRECT", "NEXT", "WRITE", "HandRing", "descriptor", "start_at"]

Used = tuple[int, int]  # head and length


def descriptor(addr: int, length: int, flags: int = 0, after: int = 0) -> bytes:
    """Return the 16 bytes of a descriptor (2.7.5)."""
    return struct.pack("<QIHH", addr, length, flags, after)


class HandRing:
    """The three areas of a virtqueue in guest memory, to be filled by hand."""

    def __init__(self, memory: Memory, geometry: RingGeometry, *, index: int = 0) -> None:
        self.memory = memory
        self.geometry = geometry
        self.words = SharedRing(memory, geometry)
        self.avail = self.taken = index
        self.words.put(geometry.driver + 2, index)
        self.words.put(geometry.device + 2, index)

    def desc(self, index: int, addr: int, length: int, flags: int = 0, after: int = 0) -> None:
        """Write one descriptor of the table."""
        raw = descriptor(addr, length, flags, after)
        self.memory.write(self.geometry.desc + 16 * index, raw)

    def table(self, addr: int, *entries: bytes, at: int = 0) -> None:
        """Write an indirect table, and descriptor `at` that refers to it."""
        self.memory.write(addr, b"".join(entries))
        self.desc(at, addr, 16 * len(entries), INDIRECT)

    def offer(self, *heads: int) -> None:
        """Make heads available, whatever they are."""
        for head in heads:
            self.words.put(self.words.avail_entry(self.avail), head)
            self.avail = (self.avail + 1) % 65536
        self.put_avail_index(self.avail)

    def put_avail_index(self, index: int) -> None:
        self.words.put(self.geometry.driver + 2, index)

    def put_used_index(self, index: int) -> None:
        self.words.put(self.geometry.device + 2, index)

    def put_used(self, *entries: Used) -> None:
        """Return heads as a device would, whatever they are."""
        index = self.used_index
        for head, length in entries:
            self.memory.write(self.words.used_entry(index), struct.pack("<II", head, length))
            index += 1
        self.put_used_index(index)

    @property
    def used_index(self) -> int:
        return self.words.get(self.geometry.device + 2)

    def take_used(self) -> list[Used]:
        """Return what the device gave back since the last time."""
        found: list[Used] = []
        while self.taken != self.used_index:
            head, length = struct.unpack(
                "<II", self.memory.read(self.words.used_entry(self.taken), 8)
            )
            found.append((head, length))
            self.taken = (self.taken + 1) % 65536
        return found


def start_at(driver: DriverRing, memory: Memory, index: int) -> None:
    """Let a new driver's end count from `index` on, as if so many requests had gone before."""
    ring = getattr(driver, "_ring")  # noqa: B009  (a driver begins at 0, so there is no public way)
    ring.avail = ring.published = ring.last_used = index
    HandRing(memory, driver.geometry, index=index)
