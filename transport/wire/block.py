"""The bytes that a block device and its driver agree on (virtio 1.4, 5.2)."""

from __future__ import annotations

import enum
import struct
from typing import Annotated

from .._config import U8, U16, U32, U64, ConfigSpace, Size

DEVICE_ID = 2
SECTOR = 512
"""Bytes of a sector: the unit of positions, whatever the device's block size (5.2.5)."""
ID_BYTES = 20
"""What a GET_ID request asks for (5.2.6.1)."""

HEADER = struct.Struct("<I4xQ")
"""What a request begins with: its type, 4 reserved bytes, its first sector (5.2.6)."""
SEGMENT = struct.Struct("<QII")
"""One range of DISCARD or WRITE_ZEROES: its first sector, its sectors, flags (5.2.6)."""
UNMAP = 1
"""The one flag of a segment: WRITE_ZEROES may give the space back."""


class BlockFeature(enum.IntFlag):
    """The feature bits of a block device (5.2.3)."""

    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    GEOMETRY = 1 << 4
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14
    LIFETIME = 1 << 15
    SECURE_ERASE = 1 << 16
    ZONED = 1 << 17


class BlockType(enum.IntEnum):
    """What a request asks for (5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    GET_LIFETIME = 10
    DISCARD = 11
    WRITE_ZEROES = 13
    SECURE_ERASE = 14


class BlockStatus(enum.IntEnum):
    """The last byte of a reply (5.2.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


class BlockConfig(ConfigSpace, frozen=True):
    """The configuration space, as far as WRITE_ZEROES needs it (5.2.4).

    A field counts only if its feature was negotiated; `capacity` always does.
    """

    capacity: U64 = 0
    """In sectors."""
    size_max: U32 = 0
    seg_max: U32 = 0
    cylinders: U16 = 0
    heads: U8 = 0
    sectors: U8 = 0
    blk_size: U32 = SECTOR
    physical_block_exp: U8 = 0
    """Blocks in a physical block, as a power of two."""
    alignment_offset: U8 = 0
    min_io_size: U16 = 0
    """In blocks, as is `opt_io_size`."""
    opt_io_size: U32 = 0
    writeback: U8 = 0
    unused0: U8 = 0
    num_queues: U16 = 1
    max_discard_sectors: U32 = 0
    max_discard_seg: U32 = 0
    discard_sector_alignment: U32 = 0
    max_write_zeroes_sectors: U32 = 0
    max_write_zeroes_seg: U32 = 0
    write_zeroes_may_unmap: U8 = 0
    unused1: Annotated[bytes, Size(3)] = bytes(3)


WRITEBACK_AT = BlockConfig.offset_of("writeback")
"""The one byte that the driver may write: 1 for a write-back cache, 0 for write-through."""
