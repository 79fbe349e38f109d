"""Two threads on the real ring under ThreadSanitizer: a driver and a device, see tsan.c."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.tools import fixed_layout, need

HARNESS = Path(__file__).with_name("tsan.c")
CORE = Path(__file__).parents[2] / "transport" / "core"
PACKAGES = {"gcc": "gcc libc6-dev", "clang-14": "clang-14 libclang-rt-14-dev"}
RACE = "WARNING: ThreadSanitizer"
RUNS = 6


def build(compiler: str, core: Path, program: Path) -> None:
    """Compile the harness with the core in a folder."""
    command = [need(compiler, PACKAGES[compiler]), "-std=c11", "-Wall", "-Wextra", "-Werror"]
    flags = ["-g", "-O1", "-fsanitize=thread", "-pthread", f"-I{core}", "-o", str(program)]
    sources = map(str, [HARNESS, *sorted(core.glob("*.c"))])
    subprocess.run([*command, *flags, *sources], check=True, timeout=60)


def run(program: Path) -> subprocess.CompletedProcess[str]:
    """Run the harness until its end or the first race."""
    return subprocess.run(
        [*fixed_layout(), program],
        env={"TSAN_OPTIONS": "halt_on_error=1 exitcode=66"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def weakened(order: str, folder: Path) -> Path:
    """Return a copy of the core in which one memory order is gone."""
    for source in [*CORE.glob("*.h"), *CORE.glob("*.c")]:
        text = source.read_text().replace(f"__ATOMIC_{order}", "__ATOMIC_RELAXED")
        (folder / source.name).write_text(text)
    return folder


@pytest.mark.parametrize("compiler", PACKAGES)
def test_two_threads_on_one_ring_do_not_race(tmp_path: Path, compiler: str) -> None:
    """2.7.13, 2.7.14: payload intact, nothing torn, no wakeup lost, one by one and in batches."""
    build(compiler, CORE, tmp_path / "tsan")

    ended = run(tmp_path / "tsan")

    assert RACE not in ended.stderr
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == RUNS


@pytest.mark.parametrize("order", ["RELEASE", "ACQUIRE"])
def test_the_harness_sees_a_missing_order(tmp_path: Path, order: str) -> None:
    build("gcc", weakened(order, tmp_path), tmp_path / "tsan")

    ended = run(tmp_path / "tsan")

    assert RACE in ended.stderr
    assert ended.returncode != 0
