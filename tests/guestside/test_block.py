"""The driver of a disk: how it splits what is asked, and what it makes of the answers."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest
import trio
from msgspec.structs import replace

from paravirt.guestside import Driver
from paravirt.guestside.block import BlockDriver, BlockError, SyncBlockDriver
from paravirt.hostside import Device, Request, serve
from paravirt.hostside.devices.block import Block
from paravirt.transport import NegotiationError, loopback
from paravirt.transport.wire.block import (
    DEVICE_ID,
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
    from collections.abc import Callable
    from pathlib import Path

KIB = 1 << 10
NOTHING = BlockFeature(0)


class Recorder(Device):
    """A disk that notes the requests, and gives one answer to all."""

    device_id = DEVICE_ID

    def __init__(self, features: BlockFeature, config: BlockConfig, status: int = 0) -> None:
        self.features = int(features)
        self.config = config
        self.requests: list[tuple[int, int, int, int]] = []
        """Type, sector, bytes sent behind the header, bytes wanted before the status."""
        self.segments: list[tuple[int, ...]] = []
        self.status = bytes([status])

    def handle(self, request: Request) -> None:
        kind, sector = HEADER.unpack(request.read(16))
        sent, wanted = request.readable - 16, request.writable - 1
        self.requests.append((kind, sector, sent, wanted))
        if kind in (BlockType.DISCARD, BlockType.WRITE_ZEROES):
            self.segments += SEGMENT.iter_unpack(request.read())
        request.write(bytes(wanted) + self.status)


class Mute(Device):
    """A disk that writes no status."""

    device_id = DEVICE_ID

    def __init__(self) -> None:
        self.config = BlockConfig(capacity=64)

    def handle(self, request: Request) -> None:
        """Return the request as it came."""


def recorder(features: BlockFeature = NOTHING, status: int = 0, **config: int) -> Recorder:
    return Recorder(features, replace(BlockConfig(capacity=1 << 40), **config), status)


async def test_long_read_is_split_and_put_together(tmp_path: Path) -> None:
    data = os.urandom(1300 * KIB)
    with Block(image(tmp_path / "disk.img", data), run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            assert await driver.read(0, len(data)) == data
            assert await driver.read(3, 600 * KIB) == data[1536 : 1536 + 600 * KIB]
            assert driver.statistics()[0].requests > 6


async def test_long_write_is_split(tmp_path: Path) -> None:
    data = os.urandom(1300 * KIB)
    path = image(tmp_path / "disk.img", 2048 * KIB)
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write(5, memoryview(data))

    assert content(path)[5 * SECTOR : 5 * SECTOR + len(data)] == data


async def test_ranges_come_back_in_order(tmp_path: Path) -> None:
    data = os.urandom(1024 * KIB)
    ranges = [(2000, 512), (0, 300 * KIB), (7, 0), (1, 4096)]
    with Block(image(tmp_path / "disk.img", data), run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            found = await driver.read_many(ranges)

    assert found == [data[at * SECTOR : at * SECTOR + size] for at, size in ranges]


async def test_many_writes_go_out_together(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", 400 * SECTOR)
    parts = [(sector, bytes([sector & 255]) * SECTOR) for sector in range(400)]
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write_many(reversed(parts))
            assert driver.statistics()[0].kicks < 40

    assert content(path) == b"".join(data for _, data in parts)


@pytest.mark.parametrize(("size_max", "most"), [(0x10000, 0x10000 - 512), (1000, 512), (1, 512)])
async def test_request_has_no_larger_segment_than_the_device_takes(
    size_max: int, most: int
) -> None:
    """5.2.4, size_max: its header counts too, being in the same buffer as the data."""
    device = recorder(BlockFeature.SIZE_MAX, size_max=size_max)
    async with attached(device, BlockDriver) as driver:
        await driver.read(8, 3 * most)
        await driver.write(8, bytes(2 * most))

    step = most // SECTOR
    reads = [(0, 8 + part * step, 0, most) for part in range(3)]
    assert device.requests == [*reads, (1, 8, most, 0), (1, 8 + step, most, 0)]


async def test_discard_is_cut_to_the_limits() -> None:
    """5.2.6.1: segments of at most max_discard_sectors, max_discard_seg in a request."""
    device = recorder(BlockFeature.DISCARD, max_discard_sectors=100, max_discard_seg=2)
    async with attached(device, BlockDriver) as driver:
        await driver.discard(10, 450)

    assert device.segments == [
        (10, 100, 0),
        (110, 100, 0),
        (210, 100, 0),
        (310, 100, 0),
        (410, 50, 0),
    ]
    assert [sent for _, _, sent, _ in device.requests] == [32, 32, 16]


@pytest.mark.parametrize(("unmap", "flags"), [(False, 0), (True, UNMAP)])
async def test_zeroes_are_cut_to_the_limits(unmap: bool, flags: int) -> None:
    device = recorder(BlockFeature.WRITE_ZEROES, max_write_zeroes_sectors=8, max_write_zeroes_seg=1)
    async with attached(device, BlockDriver) as driver:
        await driver.write_zeroes(0, 9, unmap=unmap)

    assert device.segments == [(0, 8, flags), (8, 1, flags)]
    assert device.requests == [(BlockType.WRITE_ZEROES, 0, 16, 0)] * 2


async def test_limit_of_zero_is_taken_for_one() -> None:
    """A device that forgot a limit gets a request all the same, not an endless loop."""
    device = recorder(BlockFeature.DISCARD)
    async with attached(device, BlockDriver) as driver:
        await driver.discard(0, 2)

    assert device.segments == [(0, 1, 0), (1, 1, 0)]


async def test_flush_is_not_sent_to_a_device_without_a_cache() -> None:
    """5.2.5.1: FLUSH was not negotiated."""
    device = recorder()
    async with attached(device, BlockDriver) as driver:
        await driver.flush()

    assert not device.requests


@pytest.mark.parametrize(
    ("status", "number", "name"),
    [
        (BlockStatus.IOERR, errno.EIO, "IOERR"),
        (BlockStatus.UNSUPP, errno.EOPNOTSUPP, "UNSUPP"),
        (77, errno.EIO, "status 77"),
    ],
)
async def test_answer_of_the_device_is_an_error_that_names_the_request(
    status: int, number: int, name: str
) -> None:
    async with attached(recorder(status=status), BlockDriver) as driver:
        with pytest.raises(BlockError) as caught:
            await driver.write(24, bytes(4096))

    assert (caught.value.status, caught.value.errno) == (status, number)
    assert f"{name} to OUT of 4096 bytes at sector 24" in str(caught.value)


async def test_error_names_what_was_read() -> None:
    async with attached(recorder(status=1), BlockDriver) as driver:
        with pytest.raises(BlockError, match="IN of 1024 bytes at sector 7"):
            await driver.read(7, 1024)


async def test_reply_without_a_status_is_a_failure() -> None:
    async with attached(Mute(), BlockDriver) as driver:
        with pytest.raises(BlockError, match="IOERR to OUT"):
            await driver.write(0, bytes(512))
        with pytest.raises(BlockError, match="IOERR to GET_ID"):
            await driver.get_id()


@pytest.mark.parametrize(("sector", "size"), [(0, 100), (-1, 512), (0, -512), (60, 5 * SECTOR)])
async def test_range_that_cannot_be_is_the_callers_fault(sector: int, size: int) -> None:
    """5.2.6.1: a driver must not send it, so nothing is sent."""
    device = Recorder(NOTHING, BlockConfig(capacity=64))
    async with attached(device, BlockDriver) as driver:
        with pytest.raises(ValueError, match=f"{size} bytes at sector {sector}"):
            await driver.read_many([(0, SECTOR), (sector, size)])

    assert not device.requests


async def test_write_that_cannot_be_is_the_callers_fault() -> None:
    device = Recorder(NOTHING, BlockConfig(capacity=64))
    async with attached(device, BlockDriver) as driver:
        with pytest.raises(ValueError, match="100 bytes at sector 0"):
            await driver.write(0, bytes(100))
        with pytest.raises(ValueError, match="the disk has 64 sectors"):
            await driver.write_many([(0, bytes(SECTOR)), (63, bytes(2 * SECTOR))])

    assert not device.requests


async def test_read_only_disk_is_not_written_to() -> None:
    """5.2.6: any write request will fail."""
    device = recorder(BlockFeature.RO | BlockFeature.WRITE_ZEROES | BlockFeature.DISCARD)
    async with attached(device, BlockDriver) as driver:
        assert driver.read_only
        with pytest.raises(OSError, match="read-only") as caught:
            await driver.write(0, bytes(512))
        with pytest.raises(OSError, match="read-only"):
            await driver.write_zeroes(0, 1)
        with pytest.raises(OSError, match="read-only"):
            await driver.discard(0, 1)

    assert caught.value.errno == errno.EROFS
    assert not device.requests


async def test_what_is_not_offered_is_not_sent() -> None:
    device = recorder()
    async with attached(device, BlockDriver) as driver:
        with pytest.raises(BlockError, match="does not offer DISCARD") as caught:
            await driver.discard(0, 1)
        with pytest.raises(BlockError, match="does not offer WRITE_ZEROES"):
            await driver.write_zeroes(0, 1)
        with pytest.raises(BlockError, match="does not offer CONFIG_WCE"):
            await driver.set_writeback(True)

    assert caught.value.status == BlockStatus.UNSUPP
    assert not device.requests


async def test_disk_is_described(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", 64 * KIB)
    with Block(path, block_size=4096, serial="twenty characters ok") as disk:
        async with attached(disk, BlockDriver) as driver:
            assert driver.capacity == 64 * KIB
            assert driver.block_size == 4096
            assert not driver.read_only
            assert await driver.get_id() == "twenty characters ok"


async def test_block_size_that_was_not_negotiated_is_a_sector() -> None:
    async with attached(recorder(blk_size=4096), BlockDriver) as driver:
        assert driver.block_size == SECTOR


async def test_device_of_another_type_is_refused() -> None:
    device = recorder()
    device.device_id = 1
    async with attached(device, Driver) as driver:
        with pytest.raises(NegotiationError, match="type 1, not 2"):
            await BlockDriver(driver.link).__aenter__()


async def test_requests_cancelled_under_way_leave_the_driver_usable(tmp_path: Path) -> None:
    data = os.urandom(1024 * KIB)
    with Block(image(tmp_path / "disk.img", data)) as disk:
        async with attached(disk, BlockDriver) as driver:
            with trio.move_on_after(0):
                await driver.read(0, len(data))
            assert await driver.read(0, len(data)) == data


def in_thread(disk: Block, work: Callable[[SyncBlockDriver], None]) -> None:
    """Serve a disk in a thread of its own while `work` drives it from this one."""
    link = loopback(disk)
    thread = threading.Thread(target=trio.run, args=(serve, disk, link))
    thread.start()
    try:
        with SyncBlockDriver(link) as driver:
            work(driver)
    finally:
        link.close_driver_end()
        thread.join()


def test_thread_without_trio_drives_a_disk(tmp_path: Path) -> None:
    data = os.urandom(512 * KIB)
    path = image(tmp_path / "disk.img", data)

    def work(driver: SyncBlockDriver) -> None:
        assert driver.capacity == len(data)
        assert driver.read(0, len(data)) == data
        driver.write_many([(0, b"a" * SECTOR), (9, b"b" * (300 * KIB))])
        driver.write_zeroes(1, 2)
        driver.discard(3, 1)
        driver.flush()
        driver.set_writeback(False)
        assert driver.refresh().writeback == 0
        assert driver.get_id() == "sync"
        first, second = driver.read_many([(0, 3 * SECTOR), (9, 300 * KIB)])
        assert first == b"a" * SECTOR + bytes(2 * SECTOR)
        assert second == b"b" * (300 * KIB)

    with Block(path, serial="sync") as disk:
        in_thread(disk, work)


def test_thread_without_trio_gets_the_same_errors(tmp_path: Path) -> None:
    def work(driver: SyncBlockDriver) -> None:
        with pytest.raises(ValueError, match="need a multiple of 512"):
            driver.read(0, 1)
        with pytest.raises(OSError, match="read-only"):
            driver.write(0, bytes(512))

    with Block(image(tmp_path / "disk.img", 64 * KIB), read_only=True) as disk:
        in_thread(disk, work)
