"""When a write is on the storage: write-back, write-through, and the switch between them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.guestside import Driver
from paravirt.guestside.block import BlockDriver, BlockError
from paravirt.hostside.devices.block import Block
from paravirt.transport import NegotiationError
from paravirt.transport.wire.block import HEADER, WRITEBACK_AT, BlockFeature, BlockType
from tests.disks import Gate, always, attached, content, image, in_line

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = b"w" * 512


class NoFlushDriver(BlockDriver):
    wanted_features = BlockDriver.wanted_features & ~int(BlockFeature.FLUSH)


class PlainDriver(NoFlushDriver):
    wanted_features = NoFlushDriver.wanted_features & ~int(BlockFeature.CONFIG_WCE)


class Syncs:
    """Notes each commit, and may fail it."""

    def __init__(self) -> None:
        self.count = 0
        self.error: OSError | None = None

    def __call__(self, _: int) -> None:
        self.count += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    """Count commits to a storage that is not memory."""
    module = "paravirt.hostside.devices.block._image"
    monkeypatch.setattr(f"{module}.lives_in_memory", always(False))
    syncs = Syncs()
    monkeypatch.setattr(os, "fdatasync", syncs)
    return syncs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", 64 << 10)


async def test_write_back_commits_at_the_flush(path: Path, syncs: Syncs) -> None:
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write(0, BLOCK)
            assert syncs.count == 0
            await driver.flush()
            assert syncs.count == 1


async def test_write_through_commits_each_write(path: Path, syncs: Syncs) -> None:
    """5.2.6.2, case 2."""
    with Block(path, writeback=False, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            assert driver.config.writeback == 0
            await driver.write(0, BLOCK)
            assert syncs.count == 1
            await driver.write_zeroes(0, 1)
            assert syncs.count == 2


async def test_driver_that_cannot_flush_gets_no_cache(path: Path, syncs: Syncs) -> None:
    """5.2.6.2, case 1."""
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, PlainDriver) as driver:
            await driver.write(0, BLOCK)
            await driver.flush()
            assert syncs.count == 1


async def test_cache_is_off_if_it_can_be_switched_but_not_flushed(path: Path, syncs: Syncs) -> None:
    """5.2.5.2."""
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, NoFlushDriver) as driver:
            await driver.config_changed()
            assert (await driver.refresh()).writeback == 0
            await driver.write(0, BLOCK)
            assert syncs.count == 1


async def test_driver_switches_the_cache(path: Path, syncs: Syncs) -> None:
    """5.2.5, by the one byte of the configuration space that is the driver's."""
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.set_writeback(False)
            assert driver.config.writeback == 0
            await driver.write(0, BLOCK)
            assert syncs.count == 1
            await driver.set_writeback(True)
            assert driver.config.writeback == 1
            await driver.write(0, BLOCK)
            assert syncs.count == 1


@pytest.mark.parametrize(
    ("offset", "data"),
    [(WRITEBACK_AT, b"\2"), (WRITEBACK_AT, b"\0\0"), (WRITEBACK_AT + 1, b"\0"), (0, b"\0")],
)
async def test_rest_of_the_configuration_is_not_the_drivers(
    path: Path, offset: int, data: bytes
) -> None:
    with Block(path) as disk:
        before = disk.config
        async with attached(disk, Driver) as driver:
            with pytest.raises(NegotiationError):
                await driver.write_config(offset, data)
        assert disk.config == before


async def test_read_only_disk_has_no_cache_to_switch(path: Path) -> None:
    with Block(path, read_only=True) as disk:
        async with attached(disk, BlockDriver) as driver:
            with pytest.raises(BlockError, match="does not offer CONFIG_WCE"):
                await driver.set_writeback(False)
            with pytest.raises(NegotiationError):
                await driver.write_config(WRITEBACK_AT, b"\0")


async def test_failed_commit_fails_the_flush_and_all_later_ones(path: Path, syncs: Syncs) -> None:
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            syncs.error = OSError(errno.EIO, "gone")
            with pytest.raises(BlockError, match="IOERR to FLUSH"):
                await driver.flush()
            syncs.error = None
            with pytest.raises(BlockError, match="IOERR to FLUSH"):
                await driver.flush()
        assert disk.errors == {"EIO": 2}
        with pytest.raises(OSError, match="gone"):
            disk.close()


async def test_failed_commit_fails_the_write_that_needed_it(path: Path, syncs: Syncs) -> None:
    syncs.error = OSError(errno.EIO, "gone")
    disk = Block(path, writeback=False, run_blocking=in_line)
    async with attached(disk, BlockDriver) as driver:
        with pytest.raises(BlockError, match="IOERR to OUT of 512 bytes at sector 3"):
            await driver.write(3, BLOCK)
    with pytest.raises(OSError, match="gone"):
        disk.close()


async def test_writes_that_wait_share_a_thread_and_a_commit(path: Path, syncs: Syncs) -> None:
    gate = Gate()
    with Block(path, writeback=False, run_blocking=gate) as disk:
        async with attached(disk, BlockDriver) as driver:
            async with trio.open_nursery() as writers:
                for sector in range(5):
                    writers.start_soon(driver.write, sector, bytes([sector]) * 512)
                await trio.testing.wait_all_tasks_blocked()
                assert gate.jobs == 1
                gate.open.set()
            assert await driver.read(0, 5 * 512) == b"".join(bytes([n]) * 512 for n in range(5))

    assert gate.jobs == 2
    assert syncs.count == 2


async def test_reset_drops_writes_that_have_not_begun(
    path: Path, syncs: Syncs, nursery: trio.Nursery
) -> None:
    """2.4.1: those that have are waited for, and the disk serves on."""
    gate = Gate()
    with Block(path, run_blocking=gate) as disk:
        async with attached(disk, BlockDriver) as driver:
            for sector in range(3):
                driver.submit(HEADER.pack(BlockType.OUT, sector) + BLOCK, 1)
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(driver.reset)
            await trio.testing.wait_all_tasks_blocked()
            gate.open.set()
            await trio.testing.wait_all_tasks_blocked()
            assert gate.jobs == 1
            await driver.write(3, BLOCK)

    assert gate.jobs == 2
    assert content(path)[:2048] == BLOCK + bytes(1024) + BLOCK
    assert syncs.count == 1
