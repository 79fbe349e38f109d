"""Can both sides of a virtqueue sleep for ever? Spin searches every interleaving of notify.pml."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.tools import need

MODEL = Path(__file__).with_name("notify.pml")
DEPTH = 1_000_000
INCOMPLETE = ("Search not completed", "max search depth", "out of memory", "MEMLIM")
LOST_WAKEUP = "assertion violated (outstanding==0)"
STALE_ENTRY = "assertion violated (entry["

FENCES = ["NO_C", "NO_D", "NO_E", "NO_F"]
RULES = ["NO_REARM", "NO_RECHECK", "NO_LATE"]


def search(folder: Path, optimize: str, *flags: str) -> str:
    """Return the report of an exhaustive search over one variant of the model."""
    spin, gcc = need("spin", "spin"), need("gcc", "gcc")
    for command in (
        [spin, *flags, "-a", str(MODEL)],
        [gcc, optimize, "-w", "-DSAFETY", "-o", "pan", "pan.c"],
    ):
        subprocess.run(command, cwd=folder, check=True, timeout=60)
    return subprocess.run(
        ["./pan", f"-m{DEPTH}"],
        cwd=folder,
        check=True,
        timeout=100,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout


def errors(report: str) -> int:
    found = re.search(r"errors: (\d+)", report)
    assert found, report
    return int(found[1])


def unreached(report: str) -> set[str]:
    """Return the statements that no run ever comes to."""
    return set(re.findall(r"^\t.*, state \d+, \"(.*)\"$", report, re.MULTILINE))


@pytest.mark.parametrize("flags", ["", "-DFLAGS", "-DWEAK", "-DWEAK -DFLAGS"])
def test_no_wakeup_is_lost_with_every_barrier(tmp_path: Path, flags: str) -> None:
    """2.7.13.4.1: event index, flags, and each of them with a store buffer that is no FIFO."""
    report = search(tmp_path, "-O2", *flags.split())

    assert errors(report) == 0, report
    assert not [words for words in INCOMPLETE if words in report], report
    assert unreached(report) == {"-end-"}


@pytest.mark.parametrize("flags", ["", "-DFLAGS"])
@pytest.mark.parametrize("missing", FENCES)
def test_a_wakeup_is_lost_without_one_fence(tmp_path: Path, missing: str, flags: str) -> None:
    report = search(tmp_path, "-O0", f"-D{missing}", *flags.split())

    assert errors(report) >= 1, report
    assert LOST_WAKEUP in report


@pytest.mark.parametrize("missing", RULES)
def test_a_wakeup_is_lost_without_one_rule(tmp_path: Path, missing: str) -> None:
    """Arm again after a spin; look again after arming; a late completion publishes itself."""
    report = search(tmp_path, "-O0", f"-D{missing}")

    assert errors(report) >= 1, report
    assert LOST_WAKEUP in report


@pytest.mark.parametrize("missing", ["NO_A", "NO_B"])
def test_a_stale_entry_is_taken_without_one_release(tmp_path: Path, missing: str) -> None:
    report = search(tmp_path, "-O0", "-DWEAK", f"-D{missing}")

    assert errors(report) >= 1, report
    assert STALE_ENTRY in report


def test_the_search_leaves_nothing_beside_the_model(tmp_path: Path) -> None:
    before = sorted(MODEL.parent.iterdir())
    search(tmp_path, "-O0", "-DNO_F")

    assert sorted(MODEL.parent.iterdir()) == before
    assert (tmp_path / f"{MODEL.name}.trail").exists()
