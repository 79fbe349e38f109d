"""`paravirt probe`."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from paravirt.cli.probe._words import feature_names, protocol_names, protocol_words
from tests.cli.commands import command, refused
from tests.disks import image
from tests.guestside.backend import storage_daemon

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

SIZE = 1 << 20


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """What `probe --json` prints, as it is promised."""

    features: list[str]
    protocol_features: list[str]
    queues: int | None
    config: dict[str, int | str]


def exported(folder: Path, queues: int) -> AbstractContextManager[Path]:
    """Export an image by QEMU's storage daemon, to be read only."""
    disk = image(folder / "disk", SIZE)
    return storage_daemon(disk, folder / "socket", queues, writable=False)


@pytest.mark.qemu
def test_document_says_what_the_backend_offers(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with exported(tmp_path, 3) as path:
        ended = command(capfd, "probe", path, "--json")

    document = msgspec.json.decode(ended.out, type=Document)
    assert (ended.code, document.queues) == (0, 3)
    assert {"VERSION_1", "RING_EVENT_IDX", "PROTOCOL_FEATURES", "RO"} <= set(document.features)
    assert {"MQ", "REPLY_ACK", "CONFIG"} <= set(document.protocol_features)
    assert document.config["capacity"] == SIZE // 512


@pytest.mark.qemu
def test_people_read_words(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with exported(tmp_path, 1) as path:
        ended = command(capfd, "probe", path)

    assert ended.code == 0
    for word in "read-only", "event index", "capacity = 2048", "Read as a block device":
        assert word in ended.out


@pytest.mark.qemu
def test_device_of_another_type_shows_bytes(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with exported(tmp_path, 1) as path:
        ended = command(capfd, "probe", path, "--json", "--device", "none")

    document = msgspec.json.decode(ended.out, type=Document)
    assert "bit 9" in document.features
    assert bytes.fromhex(str(document.config["bytes"])).startswith(
        (SIZE // 512).to_bytes(2, "little")
    )


def test_path_where_nothing_is_is_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = refused(capfd, "probe", tmp_path / "nothing")

    assert text.endswith("nothing: No such file or directory")


def test_file_that_is_no_socket_is_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "refused" in refused(capfd, "probe", image(tmp_path / "file", 1))


def test_path_too_long_for_a_socket_is_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "too long" in refused(capfd, "probe", tmp_path / ("x" * 120))


@contextmanager
def listening(path: Path) -> Generator[socket.socket]:
    """Listen, and answer nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


def test_backend_that_does_not_answer_is_given_up(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with listening(tmp_path / "socket"):
        ended = command(capfd, "probe", tmp_path / "socket", "--timeout", "0.05")

    assert ended.code == 1
    assert "did not answer within 0.05 s" in ended.complaint


def test_bits_that_peers_disagree_about_stay_numbers() -> None:
    assert protocol_names(1 << 0 | 1 << 21) == ["MQ", "bit 21"]
    assert protocol_words(1 << 0 | 1 << 21) == ["several queues", "bit 21"]


def test_device_bits_have_names_only_for_a_known_device() -> None:
    assert feature_names(1 << 9 | 1 << 32, "block") == ["FLUSH", "VERSION_1"]
    assert feature_names(1 << 9 | 1 << 32, "none") == ["bit 9", "VERSION_1"]
