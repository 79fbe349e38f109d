"""`paravirt demo --guest`: a Linux guest has the demo's disk."""

from __future__ import annotations

import hashlib
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.cli.commands import command, refused, start
from tests.disks import image
from tests.tools import need

if TYPE_CHECKING:
    import random

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("kernels")]


class Seen(msgspec.Struct, forbid_unknown_fields=True):
    """What the guest found, as it is promised."""

    kernel: str
    start_s: float
    file_system: str | None
    files: int | None


class Step(msgspec.Struct):
    """What counts of a step here; tests/cli has all of it."""

    doorbell: str
    ok: bool
    bytes: int
    sha256: str
    guest: Seen | None = None


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """What `demo --json` prints, as it is promised."""

    ok: bool
    steps: list[Step]


def guests_with(folder: Path) -> list[Path]:
    """Return the processes that have a folder in their command line."""
    found = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [path for path in found if os.fsencode(folder) in read(path / "cmdline")]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def test_guest_reads_mounts_and_writes_the_disk(capfd: pytest.CaptureFixture[str]) -> None:
    need("mke2fs", "e2fsprogs")
    arguments = ("--guest", "--json", "--doorbell", "direct", "--size", "4M")
    ended = command(capfd, "demo", *arguments)

    assert ended.code == 0, ended.err
    document = msgspec.json.decode(ended.out, type=Document)
    assert document.ok
    direct, guest = document.steps
    assert (direct.doorbell, direct.guest) == ("direct", None)
    assert (guest.doorbell, guest.ok) == ("guest", True)
    assert (guest.bytes, guest.sha256) == (direct.bytes, direct.sha256)
    assert guest.guest is not None
    assert guest.guest.kernel.endswith("-amd64")
    assert guest.guest.start_s > 0
    assert guest.guest.file_system == "ext4"
    assert guest.guest.files


def test_disk_without_a_file_system_is_read_all_the_same(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, rng: random.Random
) -> None:
    disk = image(tmp_path / "disk.img", data := rng.randbytes(64 << 10))

    ended = command(capfd, "demo", disk, "--guest", "--doorbell", "direct")

    assert ended.code == 0, ended.err
    assert "It read 64 KiB" in ended.out
    assert "It mounted nothing" in ended.out
    assert hashlib.sha256(data).hexdigest() in ended.out
    assert disk.read_bytes() == data


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "terminate"]
)
def test_signal_ends_the_guest_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    disk = image(tmp_path / "disk.img", 1 << 20)
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = start(folder, "demo", disk, "--guest", "--doorbell", "direct")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Serving ")
    assert process.stdout.readline().startswith("Starting Debian's Linux ")

    process.send_signal(number)

    out, err = process.communicate()
    assert process.returncode == code, err
    assert (out, err) == ("", "paravirt: stopped\n")
    assert not list(folder.iterdir())
    assert not guests_with(folder)


def hide_qemu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have neither the path nor apt know of QEMU, and keep what is fetched apart.

    Returns the folder for that, which has the kernels.
    """
    programs, cache = folder / "bin", folder / "cache"
    programs.mkdir()
    for place in map(Path, os.environ["PATH"].split(os.pathsep)):
        for path in place.glob("*"):
            if not path.name.startswith("qemu"):
                with suppress(FileExistsError):  # an earlier folder's counts
                    (programs / path.name).symlink_to(path)
    cache.mkdir()
    for path in Path(os.environ["PARAVIRT_VM"]).iterdir():
        (cache / path.name).symlink_to(path)
    installed = Path("/var/lib/dpkg/status").read_text().split("\n\n")
    theirs = ("Package: qemu", "Package: seabios\n", "Package: ipxe-qemu\n")
    left = [package for package in installed if not package.startswith(theirs)]
    (folder / "status").write_text("\n\n".join(left))
    (folder / "apt.conf").write_text(f'Dir::State::status "{folder}/status";')
    monkeypatch.setenv("APT_CONFIG", str(folder / "apt.conf"))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("PARAVIRT_VM", str(cache))
    return cache


def test_without_qemu_it_is_fetched_with_all_that_it_takes(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = hide_qemu(tmp_path, monkeypatch)
    disk = image(tmp_path / "disk.img", 1 << 20)

    ended = command(capfd, "demo", disk, "--guest", "--json", "--doorbell", "direct")

    assert ended.code == 0, ended.err
    assert msgspec.json.decode(ended.out, type=Document).ok
    fetched = cache / "qemu-system-x86" / "usr"
    assert (fetched / "bin" / "qemu-system-x86_64").is_file()
    assert (fetched / "share" / "seabios").is_dir()


def test_without_qemu_and_apt_the_demo_says_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    line = refused(capfd, "demo", "--guest")
    assert "no qemu-system-x86_64 here, and no apt-get to fetch it with" in line
