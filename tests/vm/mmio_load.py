"""Many writes at a time to a disk behind virtio-mmio, over qtest."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from paravirt.transport.wire.block import HEADER, BlockType

from .ledger import BLOCK, SECTORS
from .mmio import NEXT, QUEUE_NOTIFY, WRITE
from .mmio_disk import MmioDisk

if TYPE_CHECKING:
    from .ledger import Ledger

SLOTS = 16
"""Writes at a time, three descriptors each."""
PLACES = range(0x400000, 0x400000 + SLOTS * 0x2000, 0x2000)
"""Where each has header, data and status, one behind the other."""
STATUS = HEADER.size + BLOCK


class MmioLoad(MmioDisk):
    """A driver that writes blocks as a ledger wants them."""

    entries = 64
    _offered = _returned = 0

    async def load(self, ledger: Ledger) -> None:
        """Lay out the writes, after `start`."""
        self._ledger = ledger
        self._out: dict[int, int] = {}
        table: list[bytes] = []
        for slot, place in enumerate(PLACES):
            first = 3 * slot
            table += [
                struct.pack("<QIHH", place, HEADER.size, NEXT, first + 1),
                struct.pack("<QIHH", place + HEADER.size, BLOCK, NEXT, first + 2),
                struct.pack("<QIHH", place + STATUS, 1, WRITE, 0),
            ]
        await self.bus.write(self._ring(0), b"".join(table))

    @property
    def idle(self) -> list[int]:
        """The blocks that no write is out for."""
        return sorted({*range(self._ledger.blocks)} - {*self._out.values()})

    @property
    def out(self) -> int:
        """How many writes are out."""
        return len(self._out)

    async def offer(self, numbers: list[int]) -> None:
        """Offer writes to these blocks, as many as there is room for, with one kick."""
        ring = self._ring(0)
        free = [slot for slot in range(SLOTS) if slot not in self._out]
        for slot, number in zip(free, numbers, strict=False):
            self._out[slot] = number
            header = HEADER.pack(BlockType.OUT, number * SECTORS)
            await self.bus.write(PLACES[slot], header + self._ledger.send(number) + b"\xff")
            entry = ring + 0x1004 + 2 * (self._offered % self.entries)
            await self.bus.write(entry, struct.pack("<H", 3 * slot))
            self._offered = (self._offered + 1) & 0xFFFF
        await self.bus.write(ring + 0x1002, struct.pack("<H", self._offered))
        await self._put(QUEUE_NOTIFY, 0)

    async def take(self) -> None:
        """Take what came back, and hold the disk to it."""
        ring = self._ring(0)
        (index,) = struct.unpack("<H", await self.bus.read(ring + 0x2002, 2))
        while self._returned != index:
            entry = ring + 0x2004 + 8 * (self._returned % self.entries)
            (head,) = struct.unpack("<I", await self.bus.read(entry, 4))
            self._returned = (self._returned + 1) & 0xFFFF
            slot = head // 3
            if slot not in self._out:
                self._ledger.doubled += 1
                continue
            assert await self.bus.read(PLACES[slot] + STATUS, 1) == b"\0", "a write failed"
            self._ledger.acknowledge(self._out.pop(slot))
