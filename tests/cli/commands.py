"""Running commands, in this process and in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

from paravirt.cli import run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Ended(msgspec.Struct, frozen=True):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error; fails if there is another number of them."""
        (line,) = self.err.splitlines()
        return line


def command(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """Run a command in this process."""
    capfd.readouterr()
    code = run([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return Ended(code, out, err)


def refused(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that is refused as bad input; returns its one line."""
    ended = command(capfd, *arguments)

    assert ended.code == 2
    assert not ended.out
    return ended.complaint


def start(folder: Path, *arguments: str | Path, shell: str = "exec") -> subprocess.Popen[str]:
    """Start a command in a process of its own, with `folder` for its temporary files."""
    return subprocess.Popen(
        ["/bin/sh", "-c", f'{shell} "$@"', "sh", sys.executable, "-m", "paravirt", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def without_core(*arguments: str) -> Ended:
    """Run a command where the C core was not built."""
    code = (
        "import sys; sys.modules['paravirt.transport._core'] = None; "
        "from paravirt.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)
