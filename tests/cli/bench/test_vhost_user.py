"""`paravirt bench vhost-user`: what is measured, and what cannot be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from tests.cli.commands import command

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import pytest


@contextmanager
def serving(path: Path, *options: str) -> Generator[Path]:
    """Serve a disk of 1 MiB in a process of its own; yields the socket's path."""
    image = path.with_suffix(".img")
    image.write_bytes(os.urandom(1 << 20))
    given = ["serve", "block", str(image), "--socket-path", str(path), *options]
    with subprocess.Popen([sys.executable, "-m", "paravirt", *given], stderr=subprocess.PIPE) as it:
        try:
            assert it.stderr is not None
            it.stderr.readline()  # it listens once it says how to attach
            yield path
        finally:
            it.terminate()
            it.communicate()


def test_a_backend_is_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path / "disk.sock") as path:
        ended = command(capfd, "bench", "vhost-user", str(path), "--write", "--runs", "1", "--json")
    rows = msgspec.json.decode(ended.out)["results"]

    assert ended.code == 0
    assert {(row["case"], row["peer"], row["depth"]) for row in rows} == {
        (case, str(path), depth) for case in ("read", "write") for depth in (1, 64)
    }
    assert all(row["median"] > 0 for row in rows if row["metric"] == "iops")


def test_writes_to_a_disk_that_is_read_only_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path / "disk.sock", "--read-only") as path:
        ended = command(capfd, "bench", "vhost-user", str(path), "--write", "--runs", "1")

    assert ended.code == 2
    assert "read-only" in ended.err


def test_a_socket_where_nobody_listens_is_bad_input(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    ended = command(capfd, "bench", "vhost-user", str(path))

    assert ended.code == 2
    assert str(path) in ended.err
