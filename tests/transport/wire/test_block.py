"""The bytes of a block device: as the specification draws them (virtio 1.4, 5.2.4 and 5.2.6)."""

from __future__ import annotations

from paravirt.transport.wire.block import HEADER, SEGMENT, WRITEBACK_AT, BlockConfig, BlockType


def test_header_is_type_reserved_and_sector() -> None:
    assert HEADER.pack(BlockType.OUT, 3) == b"\1\0\0\0" + bytes(4) + b"\3" + bytes(7)


def test_segment_is_sector_count_and_flags() -> None:
    assert SEGMENT.pack(1, 2, 1) == b"\1" + bytes(7) + b"\2\0\0\0" + b"\1\0\0\0"


def test_configuration_lies_as_the_specification_has_it() -> None:
    names = ["capacity", "seg_max", "blk_size", "opt_io_size", "num_queues", "max_discard_sectors"]

    assert [BlockConfig.offset_of(name) for name in names] == [0, 12, 20, 28, 34, 36]
    assert BlockConfig.offset_of("write_zeroes_may_unmap") == 56
    assert BlockConfig.wire_size() == 60
    assert WRITEBACK_AT == 32


def test_padding_is_zero() -> None:
    """5.2.5.2."""
    assert BlockConfig(writeback=1, num_queues=2).to_bytes()[33] == 0
    assert BlockConfig().to_bytes()[57:] == bytes(3)
