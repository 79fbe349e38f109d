"""The example as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kvm

ROOT = Path(__file__).parents[3]


def test_disk_in_a_guest_is_written_and_read_back() -> None:
    command = [sys.executable, "-m", "examples.kvm_block"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    for line, name in zip(done.stdout.splitlines(), ("pio", "mmio"), strict=True):
        assert line.startswith(f"{name}-ioeventfd Report(program='block', ok=True"), line
