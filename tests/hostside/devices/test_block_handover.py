"""A disk between two backends: the image is locked by the one whose guest writes."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import pytest

from paravirt.guestside.block import BlockDriver, BlockError
from paravirt.hostside.devices.block import Block, ImageError
from tests.disks import Watched, attached, content, image

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 64 << 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", SIZE)


async def test_second_backend_writes_once_the_first_has_stopped(path: Path) -> None:
    with Block(path, migratable=True) as one, Block(path, migratable=True) as two:
        async with attached(one, BlockDriver) as source:
            await source.write(0, b"1" * 512)
        async with attached(two, BlockDriver) as target:
            assert await target.read(0, 512) == b"1" * 512
            await target.write(1, b"2" * 512)

    assert content(path)[:1024] == b"1" * 512 + b"2" * 512


async def test_write_is_refused_while_the_other_backend_writes(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Block(path, migratable=True) as one, Block(path, migratable=True) as two:
        async with attached(one, BlockDriver) as source, attached(two, BlockDriver) as target:
            await source.write(0, b"1" * 512)
            for _ in range(2):
                with pytest.raises(BlockError, match="IOERR"):
                    await target.write(0, b"2" * 512)
            assert await target.read(0, 512) == b"1" * 512
        assert two.errors == {"EBUSY": 2}

    assert content(path)[:512] == b"1" * 512
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_what_was_written_is_on_the_storage_before_the_image_is_unlocked(path: Path) -> None:
    threads = Watched()
    with Block(path, migratable=True, run_blocking=threads) as one:
        async with attached(one, BlockDriver) as source:
            await source.write(0, b"1" * 512)
            threads.jobs.clear()

        assert len(threads.jobs) == 1
        with Block(path):
            pass


async def test_image_stays_locked_if_the_storage_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(fd: int) -> None:
        del fd
        raise OSError(errno.EIO, "the cable is out")

    one = Block(path, migratable=True)
    async with attached(one, BlockDriver) as source:
        await source.write(0, b"1" * 512)
        monkeypatch.setattr("os.fdatasync", fail)
    with pytest.raises(ImageError, match="in use"):
        Block(path)
    with pytest.raises(OSError, match="cable"):
        one.close()

    assert "stays locked" in caplog.text


def test_image_that_another_keeps_to_itself_can_be_opened(path: Path) -> None:
    with Block(path), Block(path, migratable=True) as other:
        assert other.capacity == SIZE
