"""Which requests a handler does in line, which in a thread, and what a slow one holds up.

What is done before a handler is asked is in `test_block_ahead.py`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.guestside.block import BlockDriver
from paravirt.hostside import Device, Request
from paravirt.hostside.devices.block import Block
from tests.disks import Gate, Watched, always, attached, content, image, in_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = bytes(range(256)) * 64
LONG = 2 << 20
NOWAIT = os.RWF_NOWAIT
IMAGE = "paravirt.hostside.devices.block._image"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", CONTENT)


class Files:
    """What the file system does: whether it can be told not to wait, and what it then says.

    Said to requests, so all of them go to the handler.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, nowait: bool, in_memory: bool) -> None:
        monkeypatch.setattr(f"{IMAGE}.takes_nowait", always(nowait))
        monkeypatch.setattr(f"{IMAGE}.lives_in_memory", always(in_memory))
        monkeypatch.setattr(Block, "ahead", Device.ahead)
        self.flags: list[int] = []
        """Of each read and write."""
        self.answer: int | OSError | None = None
        """To calls that must not wait: the bytes that may be moved, an error, or None for all."""
        for name in ("write_from_file", "read_to_file"):
            monkeypatch.setattr(Request, name, self._wrap(getattr(Request, name)))

    def _wrap(self, move: Callable[..., int]) -> Callable[..., int]:
        def moved(
            request: Request, fd: int, position: int, size: int, flags: int = 0, last: bytes = b""
        ) -> int:
            self.flags.append(flags)
            last = last if self.answer is None else b""
            if flags & NOWAIT:
                if isinstance(self.answer, OSError):
                    raise self.answer
                size = size if self.answer is None else self.answer
            return move(request, fd, position, size, 0, last)

        return moved


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    """Have a file system that can be told not to wait, for reads and writes."""
    return Files(monkeypatch, nowait=True, in_memory=False)


async def test_read_of_what_is_cached_is_done_in_line(path: Path, files: Files) -> None:
    threads = Watched()
    with Block(path, run_blocking=threads) as disk:
        async with attached(disk, BlockDriver) as driver:
            assert await driver.read(1, 1024) == CONTENT[512:1536]

    assert not threads.jobs
    assert files.flags == [NOWAIT]


async def test_cold_read_goes_to_a_thread(path: Path, files: Files) -> None:
    files.answer = BlockingIOError(errno.EAGAIN, "cold")
    threads = Watched()
    with Block(path, run_blocking=threads) as disk:
        async with attached(disk, BlockDriver) as driver:
            assert await driver.read(1, 1024) == CONTENT[512:1536]

    assert len(threads.jobs) == 1
    assert files.flags == [NOWAIT, 0]


async def test_rest_of_a_half_cached_read_goes_to_a_thread(path: Path, files: Files) -> None:
    files.answer = 700
    threads = Watched()
    with Block(path, run_blocking=threads) as disk:
        async with attached(disk, BlockDriver) as driver:
            assert await driver.read(1, 1024) == CONTENT[512:1536]

    assert len(threads.jobs) == 1


async def test_read_is_never_tried_in_line_where_it_could_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(monkeypatch, nowait=False, in_memory=False)
    threads = Watched()
    with Block(path, run_blocking=threads) as disk:
        async with attached(disk, BlockDriver) as driver:
            assert await driver.read(0, 512) == CONTENT[:512]
            await driver.write(0, bytes(512))

    assert len(threads.jobs) == 2
    assert files.flags == [0, 0]


async def test_memory_is_read_and_written_in_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system lacks RWF_NOWAIT, but there is no disk to wait for."""
    files = Files(monkeypatch, nowait=False, in_memory=True)
    threads = Watched()
    with Block(path, run_blocking=threads, writeback=False) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write(3, bytes(512))
            assert await driver.read(3, 512) == bytes(512)

    assert not threads.jobs
    assert files.flags == [0, 0]


async def test_long_read_and_write_leave_the_loop_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their size is the guest's choice; the loop is not to copy it."""
    Files(monkeypatch, nowait=False, in_memory=True)
    monkeypatch.setattr(BlockDriver, "_most", LONG)
    threads = Watched()
    data = os.urandom(LONG)
    monkeypatch.setattr("paravirt.guestside._disk.MOST_BYTES", LONG)
    with Block(image(tmp_path / "long.img", LONG), run_blocking=threads) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write(0, data)
            assert await driver.read(0, LONG) == data

    assert len(threads.jobs) == 2


async def test_write_is_tried_in_line(path: Path, files: Files) -> None:
    threads = Watched()
    with Block(path, run_blocking=threads) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write(1, b"w" * 512)

    assert not threads.jobs
    assert files.flags == [NOWAIT]
    assert content(path)[512:1024] == b"w" * 512


@pytest.mark.parametrize("answer", [BlockingIOError(errno.EAGAIN, "busy"), 100])
async def test_write_that_would_wait_goes_to_a_thread(
    path: Path, files: Files, answer: int | OSError
) -> None:
    files.answer = answer
    data = os.urandom(512)
    threads = Watched()
    with Block(path, run_blocking=threads) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write(1, data)

    assert len(threads.jobs) == 1
    assert content(path)[512:1024] == data


async def test_writes_are_not_tried_again_where_that_is_unknown(path: Path, files: Files) -> None:
    """ext4 takes RWF_NOWAIT for reads only."""
    files.answer = OSError(errno.EOPNOTSUPP, "no")
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.write_many([(1, b"w" * 512), (2, b"w" * 512)])

    assert files.flags == [NOWAIT, 0, 0]
    assert content(path)[512:1536] == b"w" * 1024


async def test_flush_discard_and_zeroes_always_go_to_a_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Files(monkeypatch, nowait=True, in_memory=True)
    threads = Watched()
    with Block(path, run_blocking=threads) as disk:
        async with attached(disk, BlockDriver) as driver:
            await driver.flush()
            await driver.discard(0, 1)
            await driver.write_zeroes(0, 1)

    assert len(threads.jobs) == 3


async def test_error_of_a_read_in_line_is_told_and_counted(path: Path, files: Files) -> None:
    files.answer = OSError(errno.EIO, "bad sector")
    with Block(path, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            with pytest.raises(OSError, match="IOERR"):
                await driver.read(0, 512)
            files.answer = None
            assert await driver.read(0, 512) == CONTENT[:512]

    assert disk.errors == {"EIO": 1}


async def test_slow_read_does_not_hold_up_a_fast_one(path: Path, files: Files) -> None:
    gate = Gate()
    files.answer = BlockingIOError(errno.EAGAIN, "cold")
    with Block(path, run_blocking=gate) as disk:
        async with attached(disk, BlockDriver) as driver, trio.open_nursery() as readers:
            readers.start_soon(driver.read, 0, 512)
            await gate.entered.wait()
            files.answer = None
            assert await driver.read(1, 512) == CONTENT[512:1024]
            gate.open.set()


async def test_reset_waits_for_the_thread(path: Path, files: Files, nursery: trio.Nursery) -> None:
    """2.4.1: until then it may write to the driver's memory."""
    gate = Gate()
    files.answer = BlockingIOError(errno.EAGAIN, "cold")
    with Block(path, run_blocking=gate) as disk:
        async with attached(disk, BlockDriver) as driver:
            driver.submit(b"\0" * 16, 513)
            await gate.entered.wait()
            done = trio.Event()

            async def reset() -> None:
                await driver.reset()
                done.set()

            nursery.start_soon(reset)
            await trio.testing.wait_all_tasks_blocked()
            assert not done.is_set()
            gate.open.set()
            await done.wait()
            assert await driver.read(1, 512) == CONTENT[512:1024]


async def test_real_thread_reads_a_cold_image(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with Block(path) as disk:
        async with attached(disk, BlockDriver) as driver:
            assert await driver.read(0, len(CONTENT)) == CONTENT
            await driver.write(0, CONTENT[::-1])
            await driver.flush()

    assert content(path) == CONTENT[::-1]
