"""The driver of a disk (virtio 1.4, 5.2), inside trio and without.

    async with BlockDriver(link) as disk:
        first = await disk.read(0, 512)
        await disk.write(1, first)
        await disk.flush()

Positions are in sectors of 512 bytes, sizes of data in bytes. What is too large for one request is
split over several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport.wire.block import WRITEBACK_AT, BlockConfig, BlockFeature

from ._disk import BlockError as BlockError, Disk
from ._driver import Driver
from ._sync import SyncDriver

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._disk import Data, Requests


class BlockDriver(Driver, Disk):
    """The driver of a disk inside trio.

    What is wrong with an argument raises `ValueError`, a write to a read-only disk `OSError`
    (EROFS), and a request that the device failed `BlockError`; otherwise see `Driver`. Cancelled, a
    part of what was asked may be done still.
    """

    async def refresh(self) -> BlockConfig:
        """Read the configuration space again, after `config_changed`; returns it."""
        self.config = await self.read_config(BlockConfig)
        return self.config

    async def read(self, sector: int, size: int) -> bytes:
        """Read `size` bytes."""
        (data,) = await self.read_many([(sector, size)])
        return data

    async def read_many(self, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
        """Read ranges, each a sector and a number of bytes; returns their data in order.

        Keeps a queue full from this one task.
        """
        wanted = list(ranges)
        if self._is_beyond(wanted):
            await self.refresh()
        requests = self._reads(wanted)
        return self._join(wanted, requests, await self._exchange(requests))

    async def write(self, sector: int, data: Data) -> None:
        """Write bytes. They are safe from a crash of the host only after a later `flush`."""
        await self.write_many([(sector, data)])

    async def write_many(self, parts: Iterable[tuple[int, Data]]) -> None:
        """Write parts, each a sector and its bytes; where two overlap, either may win.

        Raises `BlockError` for the first that failed, when all have ended.
        """
        wanted = list(parts)
        if self._is_beyond((sector, len(data)) for sector, data in wanted):
            await self.refresh()
        await self._do(self._writes(wanted))

    async def flush(self) -> None:
        """Commit all writes that completed before this call."""
        await self._do(self._flushes())

    async def discard(self, sector: int, sectors: int) -> None:
        """Give up what a range holds; reading it then may return anything."""
        await self._do(self._discards(sector, sectors))

    async def write_zeroes(self, sector: int, sectors: int, *, unmap: bool = False) -> None:
        """Make a range read as zeroes; with `unmap` its space may be given back."""
        await self._do(self._zeroings(sector, sectors, unmap=unmap))

    async def get_id(self) -> str:
        """Return what the device calls itself, up to 20 characters."""
        requests = self._queries()
        return self._id(requests, await self._exchange(requests))

    async def set_writeback(self, on: bool) -> None:
        """Switch the device's cache; without it a write is safe when it completes (5.2.5)."""
        self._need(BlockFeature.CONFIG_WCE)
        await self.write_config(WRITEBACK_AT, bytes([on]))
        await self.refresh()

    async def _do(self, requests: Requests) -> None:
        self._check_replies(requests, await self._exchange(requests))

    async def _exchange(self, requests: Requests) -> list[bytes]:
        queue = self._queue()
        if len(requests) == 1:
            return [await self.request(*requests[0], queue)]
        return await self.request_many(requests, queue)


class SyncBlockDriver(SyncDriver, Disk):
    """`BlockDriver` without `await`, for a thread that runs no trio."""

    def refresh(self) -> BlockConfig:
        """Read the configuration space again; returns it."""
        self.config = self.read_config(BlockConfig)
        return self.config

    def read(self, sector: int, size: int) -> bytes:
        """Read `size` bytes."""
        (data,) = self.read_many([(sector, size)])
        return data

    def read_many(self, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
        """Read ranges, each a sector and a number of bytes; returns their data in order."""
        wanted = list(ranges)
        if self._is_beyond(wanted):
            self.refresh()
        requests = self._reads(wanted)
        return self._join(wanted, requests, self._exchange(requests))

    def write(self, sector: int, data: Data) -> None:
        """Write bytes. They are safe from a crash of the host only after a later `flush`."""
        self.write_many([(sector, data)])

    def write_many(self, parts: Iterable[tuple[int, Data]]) -> None:
        """Write parts, each a sector and its bytes; where two overlap, either may win.

        Raises `BlockError` for the first that failed, when all have ended.
        """
        wanted = list(parts)
        if self._is_beyond((sector, len(data)) for sector, data in wanted):
            self.refresh()
        self._do(self._writes(wanted))

    def flush(self) -> None:
        """Commit all writes that completed before this call."""
        self._do(self._flushes())

    def discard(self, sector: int, sectors: int) -> None:
        """Give up what a range holds; reading it then may return anything."""
        self._do(self._discards(sector, sectors))

    def write_zeroes(self, sector: int, sectors: int, *, unmap: bool = False) -> None:
        """Make a range read as zeroes; with `unmap` its space may be given back."""
        self._do(self._zeroings(sector, sectors, unmap=unmap))

    def get_id(self) -> str:
        """Return what the device calls itself, up to 20 characters."""
        requests = self._queries()
        return self._id(requests, self._exchange(requests))

    def set_writeback(self, on: bool) -> None:
        """Switch the device's cache; without it a write is safe when it completes (5.2.5)."""
        self._need(BlockFeature.CONFIG_WCE)
        self.write_config(WRITEBACK_AT, bytes([on]))
        self.refresh()

    def _do(self, requests: Requests) -> None:
        self._check_replies(requests, self._exchange(requests))

    def _exchange(self, requests: Requests) -> list[bytes]:
        queue = self._queue()
        if len(requests) == 1:
            return [self.request(*requests[0], queue)]
        return self.request_many(requests, queue)
