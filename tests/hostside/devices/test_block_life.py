"""A disk over time: its size changes, its storage fills up, it has several queues."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.guestside.block import BlockDriver, BlockError
from paravirt.hostside.devices.block import Block, ImageError
from tests.disks import Watched, always, attached, image, in_line
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTOR = 512
SIZE = 64 << 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", SIZE)


@pytest.fixture
def small_storage(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system with room for 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        missing("only root may mount a file system to fill up")
    command = [need("mount", "mount"), "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"no file system to fill up: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("in_memory", [True, False])
async def test_full_storage_fails_writes_and_loses_nothing(
    small_storage: Path,
    in_memory: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = "paravirt.hostside.devices.block._image"
    monkeypatch.setattr(f"{module}.lives_in_memory", always(in_memory))
    path = small_storage / "sparse.img"
    path.touch()
    os.truncate(path, 1 << 20)
    data = os.urandom(32 << 10)
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write(0, data)
            for _ in range(2):
                with pytest.raises(BlockError, match="IOERR to OUT"):
                    await driver.write(256, bytes(64 << 10))
            assert await driver.read(0, len(data)) == data
            await driver.flush()
            await driver.discard(256, 128)
            await driver.write(1024, data[:4096])
            assert await driver.read(1024, 4096) == data[:4096]

    logged = [record for record in caplog.records if record.name == "paravirt.block"]
    assert disk.errors == {"ENOSPC": 2}
    assert len(logged) == 1
    assert logged[0].levelno == logging.ERROR
    assert "No space left on device" in logged[0].getMessage()
    assert "make room" in logged[0].getMessage()


async def test_driver_hears_of_a_larger_disk_and_uses_it(path: Path) -> None:
    """5.2.6.2: the device may change the capacity, and then notifies."""
    with Block(path) as disk:
        async with attached(disk, BlockDriver) as driver:
            assert driver.capacity == SIZE
            os.truncate(path, 2 * SIZE)
            assert disk.resize() == 2 * SIZE
            with trio.fail_after(10):
                await driver.config_changed()
            assert (await driver.refresh()).capacity == 2 * SIZE // SECTOR
            await driver.write(SIZE // SECTOR, b"n" * SECTOR)
            assert await driver.read(SIZE // SECTOR, SECTOR) == b"n" * SECTOR


async def test_driver_looks_again_before_it_calls_a_range_too_long(path: Path) -> None:
    with Block(path) as disk:
        async with attached(disk, BlockDriver) as driver:
            os.truncate(path, 2 * SIZE)
            disk.resize()
            assert await driver.read(SIZE // SECTOR, SECTOR) == bytes(SECTOR)


async def test_smaller_disk_refuses_what_is_behind_its_end(path: Path) -> None:
    """The driver was not quick enough to notice."""
    with Block(path) as disk:
        async with attached(disk, BlockDriver) as driver:
            os.truncate(path, SIZE // 2)
            assert disk.resize() == SIZE // 2
            with pytest.raises(BlockError, match="IOERR"):
                await driver.read(SIZE // SECTOR - 1, SECTOR)


async def test_size_that_no_disk_has_changes_nothing(path: Path) -> None:
    with Block(path) as disk:
        os.truncate(path, SIZE + 100)
        with pytest.raises(ImageError, match="no multiple of 512"):
            disk.resize()
        assert disk.capacity == SIZE


async def test_every_queue_is_used(path: Path) -> None:
    """5.2.2: MQ."""
    with Block(path, queues=3) as disk:
        async with attached(disk, BlockDriver) as driver:
            for sector in range(6):
                await driver.read(sector, SECTOR)
            assert [queue.requests for queue in driver.statistics()] == [2, 2, 2]


async def test_zeroes_are_one_job_a_segment(path: Path) -> None:
    """A reset waits for one of them at most."""
    threads = Watched()
    with Block(path, run_blocking=threads) as disk:
        async with attached(disk, BlockDriver) as driver:
            header = bytes([13]) + bytes(15)
            segment = bytes(8) + bytes([1]) + bytes(7)
            assert await driver.request(header + 3 * segment, 1) == b"\0"

    assert len(threads.jobs) == 3


async def test_what_was_written_is_there_after_opening_again(path: Path) -> None:
    data = os.urandom(SIZE)
    with Block(path) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write(0, data)
    with Block(path, read_only=True) as disk:
        async with attached(disk, BlockDriver) as driver:
            assert await driver.read(0, SIZE) == data


async def test_closed_disk_fails_requests_and_touches_no_other_file(path: Path) -> None:
    disk = Block(path, run_blocking=in_line)
    async with attached(disk, BlockDriver) as driver:
        disk.close()
        with pytest.raises(BlockError, match="IOERR"):
            await driver.write(0, bytes(SECTOR))

    assert disk.errors == {errno.errorcode[errno.EBADF]: 1}
