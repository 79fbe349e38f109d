"""The freestanding core, compiled for Arm and run on an emulated one.

An emulator on x86 keeps x86's order of memory, so what is shown is that the code is right on
another CPU, not that its barriers are: for these there is test_tsan.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.tools import need

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "transport" / "core"
FUZZ = HERE.parent / "fuzz"
CORPUS = sorted(map(str, (FUZZ / "corpus" / "device_end").iterdir()))
RUNS = 6


def build(program: Path, compiler: str, package: str, *sources: Path) -> Path:
    """Compile a harness with the core, in one piece without shared libraries."""
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-static", "-pthread", "-DREPORT"]
    command = [need(compiler, package), *flags, f"-I{CORE}", "-o", str(program)]
    files = map(str, [*sources, *sorted(CORE.glob("*.c"))])
    subprocess.run([*command, *files], check=True, timeout=60)
    return program


def for_arm(folder: Path, *sources: Path) -> list[str]:
    """Return the command that runs a harness as an Arm does."""
    package = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    program = build(folder / "arm", "aarch64-linux-gnu-gcc", package, *sources)
    return [need("qemu-aarch64", "qemu-user"), str(program)]


def test_driver_and_device_understand_each_other_on_arm(tmp_path: Path) -> None:
    """Two threads, 70000 requests a run, each payload checked; no wakeup is lost."""
    command = for_arm(tmp_path, HERE / "tsan.c")

    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == RUNS


def test_broken_rings_are_judged_on_arm_as_here(tmp_path: Path) -> None:
    """The kept corpus of the fuzzer: what is popped, sent back, and why a ring breaks."""
    sources = (FUZZ / "replay.c", FUZZ / "device_end.c")
    here = build(tmp_path / "here", "gcc", "gcc libc6-dev", *sources)
    commands = [[str(here)], for_arm(tmp_path, *sources)]

    said = [
        subprocess.run([*command, *CORPUS], capture_output=True, text=True, timeout=60, check=True)
        for command in commands
    ]

    assert said[0].stderr == said[1].stderr
    assert said[0].stderr.count("popped") == len(CORPUS)
