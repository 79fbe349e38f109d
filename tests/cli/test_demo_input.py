"""`paravirt demo` with what it cannot use: one line that says what to do, and exit code 2."""

from __future__ import annotations

import fcntl
import os
import tempfile
from typing import TYPE_CHECKING, NamedTuple

import click
import pytest

from paravirt.cli import demo
from paravirt.cli.demo import _show
from paravirt.cli.demo._size import read_size
from paravirt.doorbells import Capability
from tests.cli.commands import refused, start
from tests.disks import image

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 65534
assert _show  # imported before anybody gives up the right to read its file


class FullDisk(NamedTuple):
    """What a full disk says of itself."""

    total: int = 1 << 30
    used: int = 1 << 30
    free: int = 0


def full(path: object) -> FullDisk:
    """Stand in for `shutil.disk_usage`."""
    del path
    return FullDisk()


def nowhere(program: str, path: str) -> None:
    """Stand in for `shutil.which`."""


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Path]:
    """Make an image that this user may not read, for the time being nobody if it is root."""
    path = image(tmp_path / "disk.img", 512)
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield path
    if root:
        os.seteuid(0)


def test_missing_image_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "does not exist: check the name" in refused(capfd, "demo", tmp_path / "none.img")


def test_folder_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "is a directory: name the image in it" in refused(capfd, "demo", tmp_path)


def test_pipe_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert "neither a file nor a block device" in refused(capfd, "demo", tmp_path / "pipe")


def test_empty_image_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = image(tmp_path / "empty.img", 0)

    assert f"truncate -s 64M {path}" in refused(capfd, "demo", path)


def test_image_of_no_whole_sectors_is_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = image(tmp_path / "odd.img", 1000)

    assert f"truncate -s 1024 {path}" in refused(capfd, "demo", path)


def test_unreadable_image_is_refused(capfd: pytest.CaptureFixture[str], unreadable: Path) -> None:
    assert "change its permissions" in refused(capfd, "demo", unreadable)


def test_busy_image_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = image(tmp_path / "busy.img", 512)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        assert "is in use: stop the other program" in refused(capfd, "demo", path)


def test_full_disk_is_noticed_before_the_copy(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(tmp_path / "disk.img", 512)
    monkeypatch.setattr("shutil.disk_usage", full)

    line = refused(capfd, "demo", path)

    assert f"no room in {tempfile.gettempdir()} for " in line
    assert "set TMPDIR" in line


def test_disk_that_fills_up_ends_the_copy(tmp_path: Path, rng: random.Random) -> None:
    """A limit on the size of files (of 512 KiB or 1 MiB) answers as a full disk does."""
    path = image(tmp_path / "disk.img", rng.randbytes(2 << 20))
    folder = tmp_path / "temporary"
    folder.mkdir()

    process = start(folder, "demo", path, shell="ulimit -f 1024; exec")

    out, err = process.communicate()
    assert process.returncode == 2
    assert out.startswith("Serving ")
    assert err.startswith(f"paravirt: no room in {folder} for ")
    assert err.count("\n") == 1
    assert not list(folder.iterdir())


def test_image_without_mke2fs_says_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", nowhere)

    assert "apt-get install e2fsprogs" in refused(capfd, "demo")


def test_size_beside_an_image_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", 512)

    assert "leave out --size" in refused(capfd, "demo", path, "--size", "1M")


def test_doorbell_that_is_not_there_is_refused(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = (Capability("eventfd", available=False, reason="too old a kernel"),)
    monkeypatch.setattr(demo, "probe", lambda: missing)

    line = refused(capfd, "demo", "--doorbell", "eventfd")

    assert line == "paravirt: no eventfd doorbell here: too old a kernel"


@pytest.mark.parametrize(
    ("text", "size"),
    [("64M", 64 << 20), ("1g", 1 << 30), ("2MiB", 2 << 20), ("1048576", 1 << 20)],
)
def test_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert read(text) == size


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("much", "write 64M"),
        ("4 M", "write 64M"),
        ("-1M", "write 64M"),
        ("1048577", "write 1049088"),
        ("4K", "write 1M"),
    ],
)
def test_size_that_no_image_has_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(click.BadParameter, match=advice):
        read(text)


def read(text: str) -> int | None:
    """Read a size as the option does."""
    option = click.Option(["--size"])
    return read_size(click.Context(click.Command("demo")), option, text)
