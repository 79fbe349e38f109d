"""Can a request be left behind while a doorbell is changed? Spin searches all of swap.pml."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.tools import need

MODEL = Path(__file__).with_name("swap.pml")
LOST_WAKEUP = "assertion violated (waiting==0)"
GONE = "assertion violated there["


def search(folder: Path, *flags: str) -> str:
    """Return the report of an exhaustive search over one variant of the model."""
    spin, gcc = need("spin", "spin"), need("gcc", "gcc")
    for command in (
        [spin, *flags, "-a", str(MODEL)],
        [gcc, "-O2", "-w", "-DSAFETY", "-o", "pan", "pan.c"],
    ):
        subprocess.run(command, cwd=folder, check=True, timeout=60)
    done = subprocess.run(
        ["./pan", "-E", "-m1000000"], cwd=folder, check=True, timeout=100, capture_output=True
    )
    return done.stdout.decode()


def test_no_wakeup_is_lost_by_a_change(tmp_path: Path) -> None:
    report = search(tmp_path)

    assert re.search(r"errors: 0\b", report), report
    assert "not completed" not in report
    assert "max search depth" not in report


@pytest.mark.parametrize("missing", ["NO_CHECK", "NO_BOTH", "NO_WAKE"])
def test_a_wakeup_is_lost_without_one_rule(tmp_path: Path, missing: str) -> None:
    """The look regardless, the wait at both, the ring that makes a sleeper wait at both."""
    assert LOST_WAKEUP in search(tmp_path, f"-D{missing}")


def test_a_doorbell_that_is_gone_is_rung_without_waiting_for_drivers(tmp_path: Path) -> None:
    assert GONE in search(tmp_path, "-DNO_TAKEN")
