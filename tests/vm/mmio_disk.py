"""A driver for a disk behind virtio-mmio that works a register at a time, over qtest."""

from __future__ import annotations

from paravirt.transport.wire.block import DEVICE_ID, HEADER, BlockType

from .mmio import BUFFERS, CONFIG, WRITE, MmioDevice


class MmioDisk(MmioDevice):
    """One disk; requests go one at a time."""

    device_id = DEVICE_ID

    async def capacity(self) -> int:
        """Return the sectors of the disk."""
        low, high = [await self._get(CONFIG + at) for at in (0, 4)]
        return low | high << 32

    async def read(self, sector: int, size: int, queue: int = 0) -> bytes:
        """Read from the disk."""
        await self._request(queue, BlockType.IN, sector, size, WRITE)
        return await self.bus.read(BUFFERS + HEADER.size, size)

    async def write(self, sector: int, data: bytes, queue: int = 0) -> None:
        """Write to the disk."""
        await self.bus.write(BUFFERS + HEADER.size, data)
        await self._request(queue, BlockType.OUT, sector, len(data), 0)

    async def _request(
        self, queue: int, kind: BlockType, sector: int, size: int, flags: int
    ) -> None:
        bus, data = self.bus, BUFFERS + HEADER.size
        await bus.write(BUFFERS, HEADER.pack(kind, sector))
        await bus.write(data + size, b"\xff")
        head, status = (BUFFERS, HEADER.size, 0), (data + size, 1, WRITE)
        await self.exchange(queue, head, (data, size, flags), status)
        assert await bus.read(data + size, 1) == b"\0", "the disk failed the request"
