"""`paravirt serve block`: what it takes, says and leaves behind."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from paravirt.cli.serve._terms import parse_terms
from paravirt.guestside.block import BlockDriver
from paravirt.guestside.vhost_user import connect_vhost_user
from paravirt.transport.vhost_user import Dialect, ProtocolFeature
from tests.cli.commands import command, refused
from tests.cli.serve.serving import served_by_command
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


def test_feature_on_demand_is_offered_at_its_bit() -> None:
    terms = parse_terms(["gpa-addresses=33", "inband-notifications"])

    assert terms.also == ProtocolFeature.GPA_ADDRESSES | ProtocolFeature.INBAND_NOTIFICATIONS
    assert terms.dialect == Dialect(gpa_addresses=33)


async def test_frontend_agrees_on_what_was_asked_for(disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    async with (
        served_by_command(disk, path, "--also", "gpa-addresses=33"),
        connect_vhost_user(path, dialect=Dialect(gpa_addresses=33)) as link,
        BlockDriver(link) as driver,
    ):
        assert ProtocolFeature.GPA_ADDRESSES in link.session.agreed
        assert await driver.read(0, 512) == bytes(512)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("telepathy", "no such protocol feature"),
        ("shmem", "peers number it differently"),
        ("shmem=many", "no number"),
        ("shmem=3", "from 20 to 63"),
        ("backend-send-fd=10", "give backend-send-fd"),
        ("xen-mmap", "no backend here has Xen mappings"),
    ],
)
def test_feature_that_cannot_be_offered_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], disk: Path, word: str, why: str
) -> None:
    assert why in refused(capfd, "serve", "block", disk, "--socket-path", "x", "--also", word)


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
