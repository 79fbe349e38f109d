"""The examples as a newcomer runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kvm

ROOT = Path(__file__).parents[3]


def lines(module: str) -> list[str]:
    """Run an example from the checkout's root; returns what it printed."""
    command = [sys.executable, "-m", f"examples.{module}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_disk_in_a_guest_is_written_and_read_back() -> None:
    for line, name in zip(lines("kvm_block"), ("pio", "mmio"), strict=True):
        assert line.startswith(f"{name}-ioeventfd Report(program='block', ok=True"), line


def test_doorbell_is_changed_while_the_guest_uses_it() -> None:
    *changes, report = lines("live_swap")

    names = ("mmio-ioeventfd", "mmio-exit", "polling", "pio-ioeventfd")
    assert changes == [f"now {name}" for name in names]
    assert report.startswith("Report(program='load', ok=True")
