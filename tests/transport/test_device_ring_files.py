"""Between a file and the guest's buffers, with no copy in between."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.tools import missing

from .hand_ring import NEXT, WRITE
from .ring_scene import DATA, MORE, Scene

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

TEXT = bytes(range(1, 251))


@pytest.fixture
def fd() -> Generator[int]:
    fd = os.memfd_create("file")
    os.write(fd, TEXT)
    yield fd
    os.close(fd)


def scene_with(*lengths: int, flags: int, start: int = DATA) -> tuple[Scene, int]:
    """Return a queue with one chain of buffers, one behind the other, and its token."""
    scene = Scene(256)
    for index, length in enumerate(lengths):
        more = NEXT if index + 1 < len(lengths) else 0
        scene.ring.desc(index, start, length, flags | more, index + 1)
        start += length
    scene.ring.offer(0)
    token, _ = scene.device.cycle([], [])
    return scene, token


def test_a_file_is_read_into_all_buffers(fd: int) -> None:
    scene, token = scene_with(3, 4, 5, flags=WRITE)

    assert scene.device.read_file(token, 0, fd, 0, 100) == 12
    assert scene.memory.read(DATA, 13) == TEXT[:12] + b"\0"


def test_a_file_is_read_from_a_position_to_an_offset(fd: int) -> None:
    scene, token = scene_with(3, 4, 5, flags=WRITE)

    assert scene.device.read_file(token, 5, fd, 20, 4) == 4
    assert scene.memory.read(DATA, 12) == bytes(5) + TEXT[20:24] + bytes(3)


def test_a_read_is_short_at_the_end_of_the_file(fd: int) -> None:
    scene, token = scene_with(100, flags=WRITE)

    assert scene.device.read_file(token, 0, fd, 240, 100) == 10
    assert scene.device.read_file(token, 10, fd, 250, 90) == 0
    assert scene.memory.read(DATA, 11) == TEXT[240:] + b"\0"


def test_a_file_is_written_from_all_buffers(fd: int) -> None:
    scene, token = scene_with(3, 4, 5, flags=0)
    scene.memory.write(DATA, b"abcdefghijkl")

    assert scene.device.write_file(token, 0, fd, 1, 100) == 12
    assert os.pread(fd, 14, 0) == TEXT[:1] + b"abcdefghijkl" + TEXT[13:14]


def test_a_file_is_written_at_a_position_from_an_offset(fd: int) -> None:
    scene, token = scene_with(3, 4, 5, flags=0)
    scene.memory.write(DATA, b"abcdefghijkl")

    assert scene.device.write_file(token, 6, fd, 250, 3) == 3
    assert os.pread(fd, 10, 249) == TEXT[249:] + b"ghi"


@pytest.mark.parametrize("count", [64, 65, 200])
def test_more_buffers_than_the_kernel_takes_at_once_are_moved_too(fd: int, count: int) -> None:
    scene, token = scene_with(*[1] * count, flags=WRITE)

    assert scene.device.read_file(token, 0, fd, 0, 1000) == count
    assert scene.memory.read(DATA, count + 1) == TEXT[:count] + b"\0"


def test_a_buffer_over_two_regions_is_moved_too(fd: int) -> None:
    scene, token = scene_with(20, flags=WRITE, start=MORE - 7)

    assert scene.device.read_file(token, 1, fd, 0, 18) == 18
    assert scene.memory.read(MORE - 7, 20) == b"\0" + TEXT[:18] + b"\0"


def test_each_direction_has_its_own_part_of_the_chain(fd: int) -> None:
    scene = Scene()
    scene.ring.desc(0, DATA, 4, NEXT, 1)
    scene.ring.desc(1, DATA + 4, 4, WRITE)
    scene.memory.write(DATA, b"abcdefgh")
    scene.ring.offer(0)
    token, _ = scene.device.cycle([], [])

    assert scene.device.write_file(token, 0, fd, 0, 100) == 4
    assert scene.device.read_file(token, 0, fd, 100, 100) == 4
    assert os.pread(fd, 5, 0) == b"abcd" + TEXT[4:5]
    assert scene.memory.read(DATA, 8) == b"abcd" + TEXT[100:104]


def test_an_offset_behind_the_end_moves_nothing(fd: int) -> None:
    scene, token = scene_with(8, flags=WRITE)

    assert scene.device.read_file(token, 8, fd, 0, 100) == 0
    assert scene.device.write_file(token, 0, fd, 0, 100) == 0  # nothing is readable


def test_a_file_that_cannot_be_read_is_an_os_error() -> None:
    scene, token = scene_with(8, flags=WRITE)

    with pytest.raises(OSError, match="Bad file descriptor") as raised:
        scene.device.read_file(token, 0, -1, 0, 8)
    assert raised.value.errno == errno.EBADF


def test_a_disk_that_is_full_is_an_os_error() -> None:
    scene, token = scene_with(8, flags=0)
    full = os.open("/dev/full", os.O_WRONLY)

    with pytest.raises(OSError, match="No space left") as raised:
        scene.device.write_file(token, 0, full, 0, 8)
    assert raised.value.errno == errno.ENOSPC
    os.close(full)


@pytest.fixture
def cold(tmp_path: Path) -> Generator[int]:
    """Return a file of 1 MiB that was never in memory, and of which nothing is read ahead."""
    path = tmp_path / "cold"
    path.touch()
    try:
        direct = os.open(path, os.O_WRONLY | os.O_DIRECT)
        os.write(direct, mmap.mmap(-1, 1 << 20))
        os.close(direct)
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        with suppress(BlockingIOError):  # or it was had at once
            os.preadv(fd, [bytearray(8)], 0, os.RWF_NOWAIT)
    except OSError as error:  # tmpfs
        missing(f"the file system of {tmp_path} cannot be asked not to wait: {error}")
    yield fd
    os.close(fd)


def read_at_once(scene: Scene, token: int, fd: int) -> None:
    """Read from each page, with no waiting."""
    for position in range(0, 1 << 20, mmap.PAGESIZE):
        scene.device.read_file(token, 0, fd, position, 8, os.RWF_NOWAIT)


def test_bytes_that_are_not_at_hand_are_blocking_io(cold: int) -> None:
    """Somewhere: the disk may answer before the kernel has given up, yet not for every page."""
    scene, token = scene_with(8, flags=WRITE)

    with pytest.raises(BlockingIOError):
        read_at_once(scene, token, cold)
    assert scene.device.read_file(token, 0, cold, (1 << 20) - mmap.PAGESIZE, 8) == 8


@pytest.mark.parametrize("position", [-1, -512])
def test_no_position_stands_for_the_files_own(fd: int, position: int) -> None:
    """To the kernel -1 means: where the file was last read, which nobody here keeps track of."""
    scene, token = scene_with(8, flags=WRITE)

    with pytest.raises(ValueError):
        scene.device.read_file(token, 0, fd, position, 8)


def test_the_end_of_a_reply_comes_with_its_last_byte(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(16)))
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    scene, token = scene_with(8, 4, flags=WRITE)

    assert scene.device.read_file(token, 0, fd, 12, 11, 0, b"!") == 4  # the file ends here
    assert scene.device.written(token) == 4
    assert scene.device.read_file(token, 0, fd, 0, 11, 0, b"!") == 11
    assert scene.device.written(token) == 12
    assert scene.memory.read(DATA, 8) == bytes(range(8))
    os.close(fd)
