"""Programs that some checks need and a machine may lack."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NoReturn

import pytest


def need(program: str, package: str) -> str:
    """Return the path of a program; without it skip with what to install, or fail in CI."""
    found = shutil.which(program)
    if found is None:
        missing(f"no {program} here: apt-get install {package}")
    return found


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
