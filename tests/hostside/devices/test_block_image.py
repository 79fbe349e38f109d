"""The image behind a disk: what is wrong with it, who else uses it, and what survives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from paravirt.hostside.devices.block import Block, Image, ImageError
from paravirt.hostside.devices.block._opening import lives_in_memory
from tests.disks import image
from tests.tools import missing, need, need_fallocate

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

SIZE = 64 << 10
NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become someone else")


def opened(path: Path) -> Image:
    return Image(path, read_only=False, block_size=512)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@contextlib.contextmanager
def as_nobody() -> Generator[None, None, None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def complaint(path: Path, *, read_only: bool = False) -> str:
    """Return the one line that says why the image cannot be used."""
    with pytest.raises(ImageError) as caught:
        Block(path, read_only=read_only)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_image_is_named_with_how_to_make_one(tmp_path: Path) -> None:
    assert "does not exist: check the name, or make it: truncate" in complaint(tmp_path / "no.img")


def test_directory_is_no_image(tmp_path: Path) -> None:
    assert "is a directory: name the image in it" in complaint(tmp_path)


def test_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert "neither a file nor a block device" in complaint(tmp_path / "pipe", read_only=True)


@root_only
@pytest.mark.parametrize(("read_only", "wanted"), [(True, "read"), (False, "read and written")])
def test_image_of_another_user_is_refused(read_only: bool, wanted: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = image(Path(folder, "disk.img"), SIZE)
        path.chmod(0o600)
        with as_nobody():
            found = complaint(path, read_only=read_only)

    assert f"may not be {wanted} by this user: change its permissions" in found


@pytest.mark.parametrize("size", [1, 511, 513, SIZE + 100])
def test_size_that_is_no_multiple_of_a_sector_is_refused(tmp_path: Path, size: int) -> None:
    path = image(tmp_path / "disk.img", size)
    filled = (size + 511) // 512 * 512

    assert f"no multiple of 512: fill it up: truncate -s {filled} {path}" in complaint(path)


def test_size_that_is_no_multiple_of_the_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no multiple of 4096"):
        Block(image(tmp_path / "disk.img", 4096 + 512), block_size=4096)


def test_empty_image_is_an_empty_disk(tmp_path: Path) -> None:
    with Block(image(tmp_path / "disk.img", 0)) as disk:
        assert disk.capacity == 0


def test_image_has_one_writer(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", SIZE)
    with Block(path):
        assert "is in use: stop the other program" in complaint(path)
        assert "is in use" in complaint(path, read_only=True)
    Block(path).close()


def test_image_has_many_readers_and_then_no_writer(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", SIZE)
    with Block(path, read_only=True), Block(path, read_only=True):
        assert "is in use" in complaint(path)


def test_image_locked_by_another_program_is_in_use(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", SIZE)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)

        assert "is in use" in complaint(path)


def test_refused_image_is_not_kept_open(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", 100)
    before = len(os.listdir("/proc/self/fd"))
    complaint(path)

    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    """By the second time the descriptor's number may be another's."""
    with open(os.devnull, "rb") as other:
        image_ = opened(image(tmp_path / "disk.img", SIZE))
        number = image_.fd
        image_.close()
        os.dup2(other.fileno(), number)
        image_.close()

        assert os.path.samestat(os.fstat(number), os.fstat(other.fileno()))
        os.close(number)


def test_close_commits_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    dirty, clean = (opened(image(tmp_path / name, SIZE)) for name in ("dirty", "clean"))
    expected = [dirty.fd]
    dirty.wrote()
    dirty.close()
    clean.close()

    assert synced == expected


def test_close_tells_that_a_commit_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(os, "fdatasync", fail)
    image_ = opened(image(tmp_path / "disk.img", SIZE))
    image_.wrote()

    with pytest.raises(OSError, match="gone"):
        image_.close()
    assert image_.fd == -1


def test_failed_commit_is_never_followed_by_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel forgets the pages that it failed to write, and then reports success."""
    results = [OSError(errno.EIO, "gone"), None]

    def fdatasync(_: int) -> None:
        if (result := results.pop(0)) is not None:
            raise result

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    image_ = opened(image(tmp_path / "disk.img", SIZE))
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            image_.sync()


@pytest.mark.parametrize("unmap", [False, True])
def test_zeroes_are_written_where_the_file_system_has_no_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmap: bool
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    module = "paravirt.hostside.devices.block._image"
    monkeypatch.setattr(f"{module}.punch_hole", refuse)
    monkeypatch.setattr(f"{module}.zero_range", refuse)
    path = image(tmp_path / "disk.img", b"x" * (3 << 20))
    image_ = opened(path)
    image_.zero(512, (2 << 20) + 512, unmap=unmap)
    image_.discard(0, 512)
    image_.close()

    found = path.read_bytes()
    assert found == b"x" * 512 + bytes((2 << 20) + 512) + b"x" * ((1 << 20) - 1024)


def test_unmapping_gives_space_back_and_zeroing_keeps_it(tmp_path: Path) -> None:
    need_fallocate(tmp_path, "--punch-hole")
    path = image(tmp_path / "disk.img", b"x" * (1 << 20))
    image_ = opened(path)
    full = allocated(path)
    image_.zero(0, 256 << 10, unmap=False)
    kept = allocated(path)
    image_.zero(0, 256 << 10, unmap=True)
    image_.discard(512 << 10, 256 << 10)
    image_.close()

    assert kept == full
    assert allocated(path) == full - (512 << 10)


def test_memory_is_known_by_its_mount() -> None:
    with open("/dev/shm/paravirt-test", "w+b") as file:
        Path("/dev/shm/paravirt-test").unlink()
        assert lives_in_memory(file.fileno())


def test_file_whose_mount_cannot_be_found_is_not_in_memory(tmp_path: Path) -> None:
    with image(tmp_path / "disk.img", SIZE).open("rb") as file:
        assert not lives_in_memory(file.fileno(), tmp_path / "none")
        assert not lives_in_memory(file.fileno(), image(tmp_path / "mounts", b"1 2 3:4 / /\n"))


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Path]:
    """Make a block device over a file, which needs root and the loop driver."""
    losetup = need("losetup", "mount")
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        missing("loop devices need root and the kernel's loop driver")
    backing = image(tmp_path / "backing.img", b"x" * (1 << 20))
    command = [losetup, "--find", "--show", str(backing)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"no loop device to be had: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    yield device
    subprocess.run([losetup, "--detach", device], check=True)


def test_block_device_is_measured_zeroed_and_discarded(loop_device: Path) -> None:
    image_ = opened(loop_device)
    size = image_.size
    image_.zero(4096, 8192, unmap=False)
    image_.zero(32768, 4096, unmap=True)
    image_.discard(65536, 65536)
    image_.sync()
    image_.close()

    data = loop_device.read_bytes()
    assert size == len(data) == 1 << 20
    assert data[:4096] == b"x" * 4096
    assert data[4096:12288] == bytes(8192)
    assert data[32768:36864] == bytes(4096)
    assert data[12288:32768] == b"x" * 20480


def test_block_device_has_one_writer(loop_device: Path) -> None:
    with Block(loop_device):
        assert "is in use" in complaint(loop_device)
