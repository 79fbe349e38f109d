"""A driver for any device behind virtio-mmio that works a register at a time, over qtest."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, Self

from paravirt.transport import Status

from .qtest import SLOTS

if TYPE_CHECKING:
    from .qtest import Qtest

DEVICE_TYPE, DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x08, 0x10, 0x14
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x20, 0x24
QUEUE_SEL, QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY = 0x30, 0x38, 0x44, 0x50
STATUS, QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE, CONFIG = 0x70, 0x80, 0x90, 0xA0, 0x100
QUEUES, BUFFERS = 0x200000, 0x300000
NEXT, WRITE = 1, 2


class MmioDevice:
    """One device; requests go one at a time."""

    device_id: ClassVar[int]
    """The type that `find` looks for."""
    entries = 8
    """Descriptors of a queue."""

    def __init__(self, bus: Qtest, base: int) -> None:
        self.bus = bus
        self._base = base
        self._sent: dict[int, int] = {}

    @classmethod
    async def find(cls, bus: Qtest) -> Self:
        """Find the one device of the machine that is of this type."""
        for base in SLOTS:
            if await bus.readl(base + DEVICE_TYPE) == cls.device_id:
                return cls(bus, base)
        raise AssertionError(f"QEMU has no device of type {cls.device_id}")

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

    async def exchange(self, queue: int, *buffers: tuple[int, int, int]) -> int:
        """Offer a chain of (address, bytes, flags), and wait for it; returns the used length."""
        bus, ring, last = self.bus, self._ring(queue), len(buffers) - 1
        table = [
            struct.pack("<QIHH", address, size, flags | (NEXT if at < last else 0), at + 1)
            for at, (address, size, flags) in enumerate(buffers)
        ]
        await bus.write(ring, b"".join(table))
        index = self._sent.get(queue, 0)
        await bus.write(ring + 0x1004 + 2 * (index % self.entries), bytes(2))
        self._sent[queue] = index + 1
        await bus.write(ring + 0x1002, struct.pack("<H", index + 1))
        await self._put(QUEUE_NOTIFY, queue)
        while struct.unpack("<H", await bus.read(ring + 0x2002, 2)) != (index + 1,):
            pass
        entry = await bus.read(ring + 0x2004 + 8 * (index % self.entries), 8)
        return int.from_bytes(entry[4:], "little")

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
