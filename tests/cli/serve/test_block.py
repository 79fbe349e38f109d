"""`paravirt serve block`: what it takes, says and leaves behind."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.cli.commands import command, refused
from tests.disks import image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img", 1 << 20)


def test_capabilities_are_one_line_of_json(capfd: pytest.CaptureFixture[str]) -> None:
    ended = command(capfd, "serve", "block", "--print-capabilities")
    (line,) = ended.out.splitlines()

    assert ended.code == 0
    assert msgspec.json.decode(line) == {"type": "block", "features": ["blk-file", "read-only"]}


def test_image_has_to_be_given(capfd: pytest.CaptureFixture[str]) -> None:
    assert "one image" in refused(capfd, "serve", "block", "--socket-path", "x.sock")


def test_one_socket_has_to_be_given(capfd: pytest.CaptureFixture[str], disk: Path) -> None:
    assert "--socket-path" in refused(capfd, "serve", "block", disk)
    assert "--fd" in refused(capfd, "serve", "block", disk, "--socket-path", "x", "--fd", "0")


def test_path_has_to_be_given_to_connect_to(capfd: pytest.CaptureFixture[str], disk: Path) -> None:
    assert "QEMU listens" in refused(capfd, "serve", "block", disk, "--fd", "0", "--connect")


def test_missing_image_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "none.img"

    assert "none.img" in refused(capfd, "serve", "block", path, "--socket-path", tmp_path / "s")


def test_path_that_is_taken_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], disk: Path
) -> None:
    line = refused(capfd, "serve", "block", disk, "--socket-path", disk)

    assert str(disk) in line
    assert "no socket" in line


def test_descriptor_that_is_no_socket_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], disk: Path
) -> None:
    assert "descriptor 4000 is no socket" in refused(capfd, "serve", "block", disk, "--fd", "4000")


def test_queue_size_has_to_be_a_power_of_two(capfd: pytest.CaptureFixture[str], disk: Path) -> None:
    line = refused(capfd, "serve", "block", disk, "--socket-path", "x", "--queue-size", "100")

    assert "power of two" in line


def test_sigterm_ends_it_cleanly_on_a_listening_descriptor(disk: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "disk.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        fd = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "paravirt", "serve", "block", disk, "--fd", str(fd)],
            pass_fds=[fd],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        assert path in process.stderr.readline()
        process.terminate()
        _, rest = process.communicate()

    assert process.returncode == 0
    assert "cloud-hypervisor" in rest


def test_end_of_a_connected_descriptor_ends_it(disk: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "paravirt", "serve", "block", disk, "--fd", str(ours.fileno())],
            pass_fds=[ours.fileno()],
            stderr=subprocess.DEVNULL,
        )
        ours.close()
        theirs.close()

        assert process.wait() == 0
