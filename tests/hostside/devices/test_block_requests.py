"""What a disk answers to requests, well-formed and not (virtio 1.4, 5.2.6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.guestside import Driver
from paravirt.hostside.devices.block import Block
from paravirt.transport.wire.block import (
    HEADER,
    SECTOR,
    SEGMENT,
    UNMAP,
    BlockConfig,
    BlockFeature,
    BlockStatus,
    BlockType,
)
from tests.disks import attached, content, image, in_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTORS = 64
CONTENT = b"".join(bytes([number]) * SECTOR for number in range(SECTORS))
OK, IOERR, UNSUPP = (bytes([status]) for status in BlockStatus)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", CONTENT)


@pytest.fixture
def disk(path: Path) -> Iterator[Block]:
    with Block(path, serial="disk one", run_blocking=in_line) as disk:
        yield disk


@pytest.fixture
def fixed(path: Path) -> Iterator[Block]:
    with Block(path, read_only=True, run_blocking=in_line) as disk:
        yield disk


def segments(kind: BlockType, *ranges: tuple[int, int, int]) -> bytes:
    return HEADER.pack(kind, 0) + b"".join(SEGMENT.pack(*one) for one in ranges)


async def test_read_returns_the_sectors_and_then_the_status(disk: Block) -> None:
    """5.2.6: the status follows the data."""
    async with attached(disk, Driver) as driver:
        reply = await driver.request(HEADER.pack(BlockType.IN, 3), 2 * SECTOR + 1)

    assert reply == CONTENT[3 * SECTOR : 5 * SECTOR] + OK


async def test_read_of_nothing_succeeds(disk: Block) -> None:
    async with attached(disk, Driver) as driver:
        assert await driver.request(HEADER.pack(BlockType.IN, 3), 1) == OK


async def test_write_reaches_the_image(disk: Block, path: Path) -> None:
    async with attached(disk, Driver) as driver:
        assert await driver.request(HEADER.pack(BlockType.OUT, 5) + b"w" * SECTOR, 1) == OK

    expected = CONTENT[: 5 * SECTOR] + b"w" * SECTOR + CONTENT[6 * SECTOR :]
    assert content(path) == expected


async def test_status_is_the_last_byte_wherever_that_is(disk: Block) -> None:
    """2.7.4.1: no assumption about how the driver cuts a message into buffers."""
    async with attached(disk, Driver) as driver:
        reply = await driver.request(HEADER.pack(BlockType.OUT, 5) + b"w" * SECTOR, 9)

    assert len(reply) == 9
    assert reply[-1:] == OK


@pytest.mark.parametrize("size", [1, SECTOR - 1, SECTOR + 1])
async def test_data_that_is_no_multiple_of_a_sector_fails(
    disk: Block, path: Path, size: int
) -> None:
    """5.2.6.1: the length of data is a multiple of 512."""
    async with attached(disk, Driver) as driver:
        read = await driver.request(HEADER.pack(BlockType.IN, 0), size + 1)
        written = await driver.request(HEADER.pack(BlockType.OUT, 0) + bytes(size), 1)

    assert read[-1:] == IOERR
    assert written == IOERR
    assert content(path) == CONTENT


@pytest.mark.parametrize("sector", [SECTORS - 1, SECTORS, 1 << 55, (1 << 64) - 1, (1 << 64) - 2])
async def test_range_beyond_the_capacity_fails(disk: Block, path: Path, sector: int) -> None:
    """5.2.6.1; the sum of position and size overflows nothing."""
    async with attached(disk, Driver) as driver:
        read = await driver.request(HEADER.pack(BlockType.IN, sector), 2 * SECTOR + 1)
        request = HEADER.pack(BlockType.OUT, sector) + bytes(2 * SECTOR)
        written = await driver.request(request, 1)
        zeroed = await driver.request(segments(BlockType.WRITE_ZEROES, (sector, 2, 0)), 1)
        discarded = await driver.request(segments(BlockType.DISCARD, (sector, 2, 0)), 1)

    assert [read[-1:], written, zeroed, discarded] == [IOERR] * 4
    assert content(path) == CONTENT


@pytest.mark.parametrize("kind", [2, 5, 7, 9, BlockType.GET_LIFETIME, BlockType.SECURE_ERASE, 16])
async def test_unknown_type_is_unsupported(disk: Block, kind: int) -> None:
    async with attached(disk, Driver) as driver:
        assert await driver.request(HEADER.pack(kind, 0), 1) == UNSUPP


@pytest.mark.parametrize("size", [0, 1, 15])
async def test_short_header_fails(disk: Block, size: int) -> None:
    async with attached(disk, Driver) as driver:
        assert await driver.request(bytes(size), 1) == IOERR


@pytest.mark.parametrize("kind", [*BlockType, 99])
async def test_request_without_room_for_a_status_comes_back_and_does_nothing(
    disk: Block, path: Path, kind: int
) -> None:
    async with attached(disk, Driver) as driver:
        assert await driver.request(HEADER.pack(kind, 0) + bytes(SECTOR)) == b""
        assert await driver.request(HEADER.pack(BlockType.IN, 1), SECTOR + 1)

    assert content(path) == CONTENT
    assert not disk.errors


async def test_id_is_padded_to_20_bytes(disk: Block) -> None:
    """5.2.6: a NUL-padded ASCII string."""
    async with attached(disk, Driver) as driver:
        reply = await driver.request(HEADER.pack(BlockType.GET_ID, 0), 21)

    assert reply == b"disk one" + bytes(12) + OK


async def test_id_is_cut_to_the_room_there_is(disk: Block) -> None:
    async with attached(disk, Driver) as driver:
        assert await driver.request(HEADER.pack(BlockType.GET_ID, 0), 5) == b"disk" + OK


@pytest.mark.parametrize("flags", [0, UNMAP])
async def test_zeroed_ranges_read_as_zeroes(disk: Block, path: Path, flags: int) -> None:
    """5.2.6.2: true whether unmap was set or clear."""
    request = segments(BlockType.WRITE_ZEROES, (1, 2, flags), (9, 7, flags), (20, 0, flags))
    async with attached(disk, Driver) as driver:
        assert await driver.request(request, 1) == OK

    expected = bytearray(CONTENT)
    expected[1 * SECTOR : 3 * SECTOR] = bytes(2 * SECTOR)
    expected[9 * SECTOR : 16 * SECTOR] = bytes(7 * SECTOR)
    assert content(path) == expected


async def test_discard_touches_its_ranges_only(disk: Block, path: Path) -> None:
    async with attached(disk, Driver) as driver:
        assert await driver.request(segments(BlockType.DISCARD, (8, 8, 0), (32, 8, 0)), 1) == OK

    found = content(path)
    assert found[: 8 * SECTOR] == CONTENT[: 8 * SECTOR]
    assert found[16 * SECTOR : 32 * SECTOR] == CONTENT[16 * SECTOR : 32 * SECTOR]
    assert found[40 * SECTOR :] == CONTENT[40 * SECTOR :]


@pytest.mark.parametrize(
    ("kind", "flags"),
    [(BlockType.DISCARD, UNMAP), (BlockType.DISCARD, 2), (BlockType.WRITE_ZEROES, 1 << 31)],
)
async def test_flag_that_is_not_known_is_unsupported(
    disk: Block, path: Path, kind: BlockType, flags: int
) -> None:
    """5.2.6.2; even beside a segment that is beyond the disk, and nothing is done."""
    request = segments(kind, (0, 8, 0), (SECTORS, 1, 0), (8, 8, flags))
    async with attached(disk, Driver) as driver:
        assert await driver.request(request, 1) == UNSUPP

    assert content(path) == CONTENT


@pytest.mark.parametrize("kind", [BlockType.DISCARD, BlockType.WRITE_ZEROES])
async def test_segments_beyond_the_limits_fail(disk: Block, path: Path, kind: BlockType) -> None:
    """5.2.6.1: at most so many segments, and whole ones."""
    most = disk.config
    assert isinstance(most, BlockConfig)
    longest = max(most.max_discard_sectors, most.max_write_zeroes_sectors)
    async with attached(disk, Driver) as driver:
        many = await driver.request(segments(kind, *[(0, 1, 0)] * (most.max_discard_seg + 1)), 1)
        none = await driver.request(segments(kind), 1)
        half = await driver.request(segments(kind, (0, 1, 0))[:-8], 1)
        long = await driver.request(segments(kind, (0, longest + 1, 0)), 1)

    assert [many, none, half, long] == [IOERR] * 4
    assert content(path) == CONTENT


async def test_read_only_disk_takes_no_change(fixed: Block, path: Path) -> None:
    """5.2.6.2: IOERR for a write request if RO is offered, accepted or not."""
    requests = [
        HEADER.pack(BlockType.OUT, 0) + bytes(SECTOR),
        segments(BlockType.WRITE_ZEROES, (0, 1, 0)),
        segments(BlockType.DISCARD, (0, 1, 0)),
    ]
    async with attached(fixed, Driver) as driver:
        assert await driver.request_many([(request, 1) for request in requests]) == [IOERR] * 3

    assert content(path) == CONTENT


async def test_read_only_disk_reads_and_flushes(fixed: Block) -> None:
    async with attached(fixed, Driver) as driver:
        read = await driver.request(HEADER.pack(BlockType.IN, 1), SECTOR + 1)
        flushed = await driver.request(HEADER.pack(BlockType.FLUSH, 0), 1)

    assert read == CONTENT[SECTOR : 2 * SECTOR] + OK
    assert flushed == OK


async def test_image_cut_short_behind_our_back_fails_the_read(disk: Block, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2 * SECTOR)
    async with attached(disk, Driver) as driver:
        reply = await driver.request(HEADER.pack(BlockType.IN, 1), 2 * SECTOR + 1)

    assert reply[-1:] == IOERR
    assert disk.errors == {"EIO": 1}


def test_features_follow_the_arguments(path: Path) -> None:
    """5.2.5.2: FLUSH always."""
    always = (
        BlockFeature.SEG_MAX | BlockFeature.BLK_SIZE | BlockFeature.TOPOLOGY | BlockFeature.FLUSH
    )
    writable = BlockFeature.CONFIG_WCE | BlockFeature.DISCARD | BlockFeature.WRITE_ZEROES
    with Block(path) as one:
        assert one.features == always | writable
    with Block(path, read_only=True, queues=2) as two:
        assert two.features == always | BlockFeature.RO | BlockFeature.MQ


def test_configuration_describes_the_disk(path: Path) -> None:
    """5.2.4; a header and a status take two descriptors of a queue."""
    with Block(path, queues=3, queue_size=64, block_size=1024, physical_block_size=4096) as disk:
        config = disk.config

    assert isinstance(config, BlockConfig)
    assert (config.capacity, config.seg_max, config.num_queues) == (SECTORS, 62, 3)
    assert (config.blk_size, config.physical_block_exp, config.min_io_size) == (1024, 2, 4)
    assert config.writeback == 1
    assert disk.queue_sizes == (64, 64, 64)


@pytest.mark.parametrize(
    "arguments",
    [
        {"queues": 0},
        {"queue_size": 3},
        {"queue_size": 2},
        {"block_size": 256},
        {"block_size": 3 * 512},
        {"block_size": 4096, "physical_block_size": 512},
        {"serial": "x" * 21},
        {"serial": "ü"},
    ],
    ids=str,
)
def test_argument_that_makes_no_disk_is_refused(path: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"need|queues|less than"):
        Block(path, **arguments)  # type: ignore[arg-type]
