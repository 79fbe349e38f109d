"""What to ask a disk, and what its answers mean (virtio 1.4, 5.2); without any waiting."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from paravirt.transport.wire.block import (
    DEVICE_ID,
    HEADER,
    ID_BYTES,
    SECTOR,
    SEGMENT,
    UNMAP,
    BlockConfig,
    BlockFeature,
    BlockStatus,
    BlockType,
)

from ._base import DriverBase

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Data = bytes | bytearray | memoryview
    Requests = list[tuple[bytes, int]]
    """Each the bytes to send and the room for the reply."""

__all__ = ()  # `block` offers what is public

MOST_BYTES = (256 << 10) - 4096
"""Data of one request: with header and status it fits a buffer of 256 KiB, and page follows page if
it begins with one. More would gain nothing, since it does not stay in the CPU's cache."""

_STATUS_BYTES = 1
_ERRNO = {int(BlockStatus.UNSUPP): errno.EOPNOTSUPP}
_OK = int(BlockStatus.OK)
_IN = int(BlockType.IN)
_OUT = int(BlockType.OUT)


class BlockError(OSError):
    """The device failed a request, or has none of its kind."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        """What it answered, or would (5.2.6)."""
        super().__init__(_ERRNO.get(status, errno.EIO), text)


class Disk(DriverBase):
    """What to ask a disk, and what its answers mean; no waiting."""

    device_id = DEVICE_ID
    wanted_features = int(
        BlockFeature.SIZE_MAX
        | BlockFeature.SEG_MAX
        | BlockFeature.RO
        | BlockFeature.BLK_SIZE
        | BlockFeature.FLUSH
        | BlockFeature.TOPOLOGY
        | BlockFeature.CONFIG_WCE
        | BlockFeature.MQ
        | BlockFeature.DISCARD
        | BlockFeature.WRITE_ZEROES
    )

    config = BlockConfig()
    """The configuration space as it was last read: on entry, and by `refresh`."""
    read_only = False
    """Whether the disk takes no writes."""
    _most = MOST_BYTES
    """Data of one request; it is one segment of it."""
    _turns = 1
    """Queues to use in turn."""
    _turn = 0

    @property
    def capacity(self) -> int:
        """The size of the disk in bytes, as `config` has it."""
        return self.config.capacity * SECTOR

    @property
    def block_size(self) -> int:
        """The unit in bytes that the device would like to be used (5.2.5)."""
        return self.config.blk_size if self.features & BlockFeature.BLK_SIZE else SECTOR

    async def _prepare(self) -> None:
        config = self.config = await self._read_config(BlockConfig)
        features = BlockFeature(self.features & self.wanted_features)
        self.read_only = BlockFeature.RO in features
        self._most = MOST_BYTES
        if BlockFeature.SIZE_MAX in features:
            fitting = (config.size_max - HEADER.size) // SECTOR * SECTOR
            self._most = min(MOST_BYTES, max(SECTOR, fitting))
        self._turns = max(1, config.num_queues) if BlockFeature.MQ in features else 1

    def _queue(self) -> int:
        """Choose the next queue, each in its turn."""
        self._turn = (self._turn + 1) % min(self._turns, max(1, self.queues))
        return self._turn

    # What to ask.

    def _is_beyond(self, ranges: Iterable[tuple[int, int]]) -> bool:
        """Say whether a range ends behind the disk as it was last seen."""
        capacity = self.capacity
        return any(sector * SECTOR + size > capacity for sector, size in ranges)

    def _check(self, sector: int, size: int) -> None:
        if sector < 0 or size < 0 or size % SECTOR:
            raise ValueError(f"{size} bytes at sector {sector}: need a multiple of {SECTOR}")
        if sector * SECTOR + size > self.capacity:
            raise ValueError(
                f"{size} bytes at sector {sector}: the disk has {self.config.capacity} sectors"
            )

    def _check_writable(self) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "the disk is read-only")

    def _reads(self, ranges: Sequence[tuple[int, int]]) -> Requests:
        most = self._most
        requests: Requests = []
        for sector, size in ranges:
            self._check(sector, size)
            for start in range(0, size, most):
                header = HEADER.pack(_IN, sector + start // SECTOR)
                requests.append((header, min(most, size - start) + _STATUS_BYTES))
        return requests

    def _writes(self, parts: Sequence[tuple[int, Data]]) -> Requests:
        self._check_writable()
        most = self._most
        requests: Requests = []
        for sector, data in parts:
            view = memoryview(data).cast("B")
            self._check(sector, len(view))
            for start in range(0, len(view), most):
                header = HEADER.pack(_OUT, sector + start // SECTOR)
                request = b"".join((header, view[start : start + most]))
                requests.append((request, _STATUS_BYTES))
        return requests

    def _discards(self, sector: int, sectors: int) -> Requests:
        self._need(BlockFeature.DISCARD)
        config = self.config
        limits = config.max_discard_sectors, config.max_discard_seg
        return self._segments(BlockType.DISCARD, sector, sectors, limits)

    def _zeroings(self, sector: int, sectors: int, *, unmap: bool) -> Requests:
        self._need(BlockFeature.WRITE_ZEROES)
        config = self.config
        limits = config.max_write_zeroes_sectors, config.max_write_zeroes_seg
        flags = UNMAP if unmap else 0
        return self._segments(BlockType.WRITE_ZEROES, sector, sectors, limits, flags)

    def _segments(
        self, kind: BlockType, sector: int, sectors: int, limits: tuple[int, int], flags: int = 0
    ) -> Requests:
        self._check_writable()
        self._check(sector, sectors * SECTOR)
        longest, most = (max(1, limit) for limit in limits)
        end = sector + sectors
        segments = [
            SEGMENT.pack(start, min(longest, end - start), flags)
            for start in range(sector, end, longest)
        ]
        header = HEADER.pack(kind, 0)
        return [
            (header + b"".join(segments[index : index + most]), _STATUS_BYTES)
            for index in range(0, len(segments), most)
        ]

    def _flushes(self) -> Requests:
        if not self.features & BlockFeature.FLUSH:  # then there is no cache (5.2.6.2)
            return []
        return [(HEADER.pack(BlockType.FLUSH, 0), _STATUS_BYTES)]

    def _queries(self) -> Requests:
        return [(HEADER.pack(BlockType.GET_ID, 0), ID_BYTES + _STATUS_BYTES)]

    def _need(self, feature: BlockFeature) -> None:
        if not self.features & feature:
            raise BlockError(BlockStatus.UNSUPP, f"the device does not offer {feature.name}")

    # What the answers mean.

    def _check_replies(self, requests: Requests, replies: Sequence[bytes]) -> None:
        """Raise `BlockError` for the first request that the device did not do."""
        for (request, room), reply in zip(requests, replies, strict=True):
            # The status is the last byte there is room for; in a shorter reply it is not seen.
            if len(reply) != room or reply[-1] != _OK:
                raise _failure(request, room, reply)

    def _join(
        self, ranges: Sequence[tuple[int, int]], requests: Requests, replies: Sequence[bytes]
    ) -> list[bytes]:
        """Return the data of each range."""
        self._check_replies(requests, replies)
        most = self._most
        found: list[bytes] = []
        pieces = iter(replies)
        for _, size in ranges:
            if 0 < size <= most:
                found.append(next(pieces)[:-1])
            else:
                count = -(-size // most)
                found.append(b"".join(memoryview(next(pieces))[:-1] for _ in range(count)))
        return found

    def _id(self, requests: Requests, replies: Sequence[bytes]) -> str:
        """Return the text of an answer to GET_ID: padded with zeroes, up to 20 characters."""
        self._check_replies(requests, replies)
        return replies[0][:ID_BYTES].partition(b"\0")[0].decode("ascii", errors="replace")


def _failure(request: bytes, room: int, reply: bytes) -> BlockError:
    """Say what a request was and what became of it."""
    kind, sector = HEADER.unpack_from(request)
    status = reply[-1] if len(reply) == room else int(BlockStatus.IOERR)
    names = {int(each): each.name for each in BlockStatus}
    where = ""
    if kind in (_IN, _OUT):
        size = room - _STATUS_BYTES if kind == _IN else len(request) - HEADER.size
        where = f" of {size} bytes at sector {sector}"
    answer = names.get(status, f"status {status}")
    return BlockError(status, f"the device answered {answer} to {BlockType(kind).name}{where}")
