"""A file, guest memory in pieces, and a ring of hand-made disk requests for `PlainDisk`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from paravirt.transport import DeviceRing, Feature, Memory, RingGeometry
from paravirt.transport.disk import PlainDisk
from paravirt.transport.wire.block import HEADER, SECTOR, BlockType

from .fenced import PAGE, fenced_region
from .hand_ring import NEXT, WRITE, HandRing, descriptor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.transport import Region

    from .ring_model import Segment

RINGS, TABLES, HEADERS, DATA = 0x10000, 0x100000, 0x200000, 0x300000
MORE = DATA + PAGE  # the data is two regions that adjoin in the guest and lie apart here
SECTORS = 16
CONTENT = b"".join(bytes([number + 1]) * SECTOR for number in range(SECTORS))
IN, OUT = BlockType.IN, BlockType.OUT
QUIET = int(Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX)  # no call for the first completion
ASKING = int(Feature.RING_INDIRECT_DESC)
"""Without EVENT_IDX a driver that says nothing wants a call for each."""


class Scene:
    """One queue of 128, and what its driver and its device do."""

    def __init__(self, features: int = QUIET, data: Region | None = None) -> None:
        self.fd = os.memfd_create("disk")
        os.write(self.fd, CONTENT)
        layout = {RINGS: 4 * PAGE, TABLES: 8 * PAGE, HEADERS: PAGE, MORE: PAGE}
        regions = [fenced_region(length, addr=addr) for addr, length in layout.items()]
        self.memory = Memory([*regions, data or fenced_region(PAGE, addr=DATA)])
        geometry = RingGeometry.contiguous(128, RINGS, features)
        self.ring = HandRing(self.memory, geometry)
        self.device = DeviceRing(self.memory, geometry, table_max=1200)
        self.device.peek(HEADER.size)
        self.disk = PlainDisk()
        self._next = 0
        if features & Feature.RING_EVENT_IDX:
            self.ring.words.put(self.ring.words.used_event, 1 << 15)

    def close(self) -> None:
        os.close(self.fd)

    def chain(self, readable: Sequence[Segment], writable: Sequence[Segment]) -> int:
        """Write a chain into the next descriptors, and offer it; returns its head."""
        head = self._next
        rows = [(*one, 0) for one in readable] + [(*one, WRITE) for one in writable]
        for addr, length, flags in rows:
            self._next += 1
            more = NEXT if self._next < head + len(rows) else 0
            self.ring.desc(self._next - 1, addr, length, flags | more, self._next)
        self.ring.offer(head)
        return head

    def table(self, readable: Sequence[Segment], writable: Sequence[Segment]) -> int:
        """Do the same with one descriptor, of an indirect table."""
        rows = [(*one, 0) for one in readable] + [(*one, WRITE) for one in writable]
        entries = [
            descriptor(addr, length, flags | (NEXT if at < len(rows) else 0), at)
            for at, (addr, length, flags) in enumerate(rows, 1)
        ]
        head = self._next
        self._next += 1
        self.ring.table(TABLES, *entries, at=head)
        self.ring.offer(head)
        return head

    def header(self, kind: int, sector: int, at: int = 0) -> Segment:
        """Write a header; returns where it is."""
        addr = HEADERS + HEADER.size * at
        self.memory.write(addr, HEADER.pack(kind, sector))
        return addr, HEADER.size

    def read(self, sector: int = 0, at: int = 0) -> int:
        """Ask for one sector, to `DATA`."""
        return self.chain([self.header(IN, sector, at)], [(DATA, SECTOR + 1)])

    def run(
        self,
        *,
        fd: int | None = None,
        size: int = len(CONTENT),
        reads: int | None = 0,
        writes: int | None = 0,
        spin_ns: int = 0,
    ) -> bool:
        """Have the disk do what it can of what was taken."""
        fd = self.fd if fd is None else fd
        return self.disk.run(self.device, fd, size, reads, writes, spin_ns)

    def file(self) -> bytes:
        """Return what the file holds."""
        return os.pread(self.fd, 2 * len(CONTENT), 0)

    def left(self) -> list[int]:
        """Return the heads of what the run left in hand."""
        return [token & 0xFFFF for token in self.device.rest()[::2]]
