"""Holes and zeroes in files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from paravirt.transport.fallocate import punch_hole, zero_range
from tests.tools import need_fallocate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KIB = 1 << 10


@pytest.mark.parametrize(
    ("change", "how"), [(punch_hole, "--punch-hole"), (zero_range, "--zero-range")]
)
def test_range_reads_as_zeroes_and_the_rest_stays(
    change: Callable[[int, int, int], None], how: str, tmp_path: Path
) -> None:
    need_fallocate(tmp_path, how)
    path = tmp_path / "file"
    path.write_bytes(b"x" * (64 * KIB))
    with path.open("r+b") as file:
        change(file.fileno(), 5 * KIB, 10 * KIB)
        change(file.fileno(), 60 * KIB, 100 * KIB)

    expected = b"x" * (5 * KIB) + bytes(10 * KIB) + b"x" * (45 * KIB) + bytes(4 * KIB)
    assert path.read_bytes() == expected


@pytest.mark.parametrize("change", [punch_hole, zero_range])
def test_what_cannot_be_changed_is_an_error_of_the_system(
    change: Callable[[int, int, int], None], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(64 * KIB))
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            change(fd, 0, KIB)
    finally:
        os.close(fd)
