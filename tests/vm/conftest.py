"""Kernels and programs for the guests, kept with the project's other artefacts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from paravirt.hostside.testing import GuestError, fetch_kernel
from tests.tools import missing, need

CACHE = Path(__file__).parents[2] / "build" / "vm"
os.environ.setdefault("PARAVIRT_VM", str(CACHE))


@pytest.fixture(scope="session")
def kernels() -> None:
    """Fetch what guests boot before the guard against hangs counts."""
    need("qemu-system-x86_64", "qemu-system-x86")
    try:
        for series in "6.1", "6.12":
            trio.run(fetch_kernel, series)
    except GuestError as error:
        missing(str(error))
