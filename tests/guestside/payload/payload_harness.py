"""The payload as a program of this machine: compiled with a harness that plays the machine."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from paravirt.guestside.payload import Report, parse
from tests.tools import fixed_layout, need

if TYPE_CHECKING:
    from paravirt.guestside.payload import Task

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
ALL = 1 << 32 | 1 << 29 | 1 << 28
"""VERSION_1, EVENT_IDX and INDIRECT_DESC."""
POOL = 4 << 20


layout = functools.cache(fixed_layout)


def compiled(folder: Path) -> Path:
    """Compile payload, core and harness with the sanitizers; returns the program."""
    program = folder / "harness"
    sources = [HERE / "harness.c", *(ROOT / "guestside/payload").glob("*.c")]
    sources += (ROOT / "transport/core").glob("*.c")
    flags = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Wshadow", "-Werror"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    folders = ("transport/core", "doorbells/guest", "guestside/payload")
    flags += ["-include", str(HERE / "fake_machine.h"), *(f"-I{ROOT / name}" for name in folders)]
    command = [need("gcc", "gcc"), *flags, *map(str, sources), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def run(
    program: Path, task: Task, *, lie: str = "none", features: int = ALL, pool: int = POOL
) -> tuple[int, Report, str]:
    """Run a task against the harness's device; returns exit code, report and all that was said."""
    words = [lie, hex(features), hex(pool), *map(str, task.arguments())]
    command = [*layout(), str(program), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (code,) = (int(line[5:]) for line in done.stdout.splitlines() if line.startswith("exit="))
    return code, parse(done.stdout), done.stdout
