"""A driver for a disk behind virtio-mmio whose machine migrates under it, over qtest."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from paravirt.transport.wire.block import DEVICE_ID, HEADER, SECTOR, BlockType

from .mmio import BUFFERS, WRITE, MmioDevice

if TYPE_CHECKING:
    from .qtest import Qtest

STATUS = BUFFERS + HEADER.size
DATA = BUFFERS + 0x1000


class MovingDisk(MmioDevice):
    """One disk; requests go one at a time."""

    device_id = DEVICE_ID

    async def write(self, at: int, data: bytes) -> None:
        """Write to the disk at a byte."""
        await self.bus.write(DATA, data)
        await self._request(BlockType.OUT, at, (DATA, len(data), 0))

    async def read(self, at: int, size: int, into: int) -> bytes:
        """Read from the disk into guest memory, and return what is there then."""
        await self._request(BlockType.IN, at, (into, size, WRITE))
        return await self.bus.read(into, size)

    async def _request(self, kind: BlockType, at: int, data: tuple[int, int, int]) -> None:
        await self.bus.write(BUFFERS, HEADER.pack(kind, at // SECTOR) + b"\xff")
        await self.exchange(0, (BUFFERS, HEADER.size, 0), data, (STATUS, 1, WRITE))
        assert await self.bus.read(STATUS, 1) == b"\0", "the disk failed the request"

    async def go_on(self, bus: Qtest) -> None:
        """Go on in the machine that the guest came to; a request that came along is waited for.

        One that was cancelled before it was offered there is to be made again.
        """
        self.bus = bus
        ring = self._ring(0)
        offered = await bus.read(ring + 0x1002, 2)
        (self._sent[0],) = struct.unpack("<H", offered)
        while await bus.read(ring + 0x2002, 2) != offered:
            pass
