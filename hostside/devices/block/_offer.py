"""What a disk offers to its driver: features and configuration (virtio 1.4, 5.2.3 and 5.2.4)."""

from __future__ import annotations

from paravirt.transport.wire.block import ID_BYTES, SECTOR, BlockConfig, BlockFeature

__all__ = ()

SEGMENTS = 16
"""Ranges in one DISCARD or WRITE_ZEROES."""
DISCARD_SECTORS = 1 << 21
"""In one range, 1 GiB: giving space back does not take longer for more of it."""
ZERO_SECTORS = 1 << 17
"""In one range, 64 MiB: they may have to be written, and a reset waits for that."""

_LARGEST_BLOCK = 1 << 16


def check_arguments(
    queues: int, queue_size: int, block_size: int, physical_block_size: int, serial: str
) -> None:
    """Raise `ValueError` for what no disk can be made of."""
    if not 1 <= queues <= 0xFFFF:
        raise ValueError(f"{queues} queues: a disk has 1 to 65535")
    if not 4 <= queue_size <= 32768 or queue_size & (queue_size - 1):
        raise ValueError(f"a queue of {queue_size}: need a power of two from 4 to 32768")
    for size in block_size, physical_block_size:
        if not SECTOR <= size <= _LARGEST_BLOCK or size & (size - 1):
            raise ValueError(f"a block of {size} bytes: need a power of two from 512 to 65536")
    if physical_block_size < block_size:
        raise ValueError(f"a physical block of {physical_block_size} is less than a block")
    if not serial.isascii() or len(serial) > ID_BYTES:
        raise ValueError(f"serial {serial!r}: need at most {ID_BYTES} ASCII characters")


def offered_features(*, read_only: bool, queues: int) -> int:
    """Return the feature bits of a disk."""
    features = BlockFeature.SEG_MAX | BlockFeature.BLK_SIZE | BlockFeature.TOPOLOGY
    features |= BlockFeature.FLUSH  # 5.2.5.2: always
    if read_only:
        features |= BlockFeature.RO
    else:
        features |= BlockFeature.CONFIG_WCE | BlockFeature.DISCARD | BlockFeature.WRITE_ZEROES
    if queues > 1:
        features |= BlockFeature.MQ
    return int(features)


def offered_config(
    size: int,
    *,
    queues: int,
    queue_size: int,
    block_size: int,
    physical_block_size: int,
    writeback: bool,
    read_only: bool,
) -> BlockConfig:
    """Return the configuration space of a disk of `size` bytes.

    Fields of features that are not offered are 0.
    """
    blocks = physical_block_size // block_size
    writable = not read_only
    return BlockConfig(
        capacity=size // SECTOR,
        seg_max=queue_size - 2,  # the header and the status take a descriptor each
        blk_size=block_size,
        physical_block_exp=blocks.bit_length() - 1,
        min_io_size=blocks,
        writeback=int(writeback and writable),
        num_queues=queues if queues > 1 else 0,
        max_discard_sectors=DISCARD_SECTORS * writable,
        max_discard_seg=SEGMENTS * writable,
        discard_sector_alignment=physical_block_size // SECTOR * writable,
        max_write_zeroes_sectors=ZERO_SECTORS * writable,
        max_write_zeroes_seg=SEGMENTS * writable,
        write_zeroes_may_unmap=int(writable),
    )
