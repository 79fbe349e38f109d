"""What some checks need and a machine may lack."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def need(program: str, package: str) -> str:
    """Return the path of a program; without it skip with what to install, or fail in CI."""
    found = shutil.which(program)
    if found is None:
        missing(f"no {program} here: apt-get install {package}")
    return found


def need_kvm() -> None:
    """Without a KVM of the CPU that the guests here are for skip, or fail in CI."""
    if platform.machine() != "x86_64" or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        missing("no /dev/kvm that can be opened, on x86-64")


def need_fallocate(folder: Path, how: str) -> None:
    """Where files cannot have `--punch-hole` or `--zero-range` skip, or fail in CI."""
    file = folder / "asked"
    file.write_bytes(bytes(8192))
    command = [need("fallocate", "util-linux"), how, "--length=4096", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    file.unlink()
    if done.returncode:
        missing(f"the file system of {folder} cannot {how}: {done.stderr.strip()}")


def missing(reason: str) -> NoReturn:
    """Skip a test for what the machine lacks, or fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def fixed_layout() -> list[str]:
    """Return how to start a sanitized program: some address layouts leave no room for its shadow.

    Empty where a container forbids to choose the layout.
    """
    command = [need("setarch", "util-linux"), "-R"]
    allowed = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if allowed else []
