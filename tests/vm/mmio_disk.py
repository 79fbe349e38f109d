"""A driver for a disk behind virtio-mmio that works a register at a time, over qtest."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Self

from paravirt.transport import Status
from paravirt.transport.wire.block import DEVICE_ID, HEADER, BlockType

from .qtest import SLOTS

if TYPE_CHECKING:
    from .qtest import Qtest

DEVICE_TYPE, DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x08, 0x10, 0x14
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x20, 0x24
QUEUE_SEL, QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY = 0x30, 0x38, 0x44, 0x50
STATUS, QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE, CONFIG = 0x70, 0x80, 0x90, 0xA0, 0x100
QUEUES, BUFFERS = 0x200000, 0x300000
NEXT, WRITE = 1, 2


class MmioDisk:
    """One disk; requests go one at a time."""

    entries = 8
    """Descriptors of a queue."""

    def __init__(self, bus: Qtest, base: int) -> None:
        self.bus = bus
        self._base = base
        self._sent: dict[int, int] = {}

    @classmethod
    async def find(cls, bus: Qtest) -> Self:
        """Find the one disk of the machine."""
        for base in SLOTS:
            if await bus.readl(base + DEVICE_TYPE) == DEVICE_ID:
                return cls(bus, base)
        raise AssertionError("QEMU has no disk")

    async def start(self, features: int, queues: int = 1) -> int:
        """Negotiate, with no more features than these; returns the features in force."""
        await self.reset()
        for status in 1, 3:
            await self._put(STATUS, status)
        offered = 0
        for half in 0, 1:
            await self._put(DEVICE_FEATURES_SEL, half)
            offered |= await self._get(DEVICE_FEATURES) << 32 * half
        features &= offered
        for half in 0, 1:
            await self._put(DRIVER_FEATURES_SEL, half)
            await self._put(DRIVER_FEATURES, features >> 32 * half & 0xFFFFFFFF)
        await self._put(STATUS, 11)
        assert await self._get(STATUS) & Status.FEATURES_OK
        for queue in range(queues):
            await self._set_up(queue)
        await self._put(STATUS, 15)
        return features

    async def reset(self) -> None:
        """Reset the device."""
        await self._put(STATUS, 0)
        assert await self._get(STATUS) == 0
        self._sent.clear()

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
        bus, data, ring = self.bus, BUFFERS + HEADER.size, self._ring(queue)
        await bus.write(BUFFERS, HEADER.pack(kind, sector))
        await bus.write(data + size, b"\xff")
        table = [
            struct.pack("<QIHH", BUFFERS, HEADER.size, NEXT, 1),
            struct.pack("<QIHH", data, size, NEXT | flags, 2),
            struct.pack("<QIHH", data + size, 1, WRITE, 0),
        ]
        await bus.write(ring, b"".join(table))
        index = self._sent.get(queue, 0)
        await bus.write(ring + 0x1004 + 2 * (index % self.entries), bytes(2))
        self._sent[queue] = index + 1
        await bus.write(ring + 0x1002, struct.pack("<H", index + 1))
        await self._put(QUEUE_NOTIFY, queue)
        while struct.unpack("<H", await bus.read(ring + 0x2002, 2)) != (index + 1,):
            pass
        assert await bus.read(data + size, 1) == b"\0", "the disk failed the request"

    async def _set_up(self, queue: int) -> None:
        ring = self._ring(queue)
        await self.bus.write(ring, bytes(0x3000))
        await self._put(QUEUE_SEL, queue)
        await self._put(QUEUE_NUM, self.entries)
        for register, at in (QUEUE_DESC, 0), (QUEUE_DRIVER, 0x1000), (QUEUE_DEVICE, 0x2000):
            await self._put(register, ring + at)
            await self._put(register + 4, 0)
        await self._put(QUEUE_READY, 1)

    def _ring(self, queue: int) -> int:
        return QUEUES + 0x4000 * queue

    async def _get(self, register: int) -> int:
        return await self.bus.readl(self._base + register)

    async def _put(self, register: int, value: int) -> None:
        await self.bus.writel(self._base + register, value)
