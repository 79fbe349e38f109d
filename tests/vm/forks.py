"""The command line in a process of its own, again and again, without loading Python each time.

Run as a program, it reads commands, a line of JSON each, runs each in a child of its own, and
prints the child's id and then how it ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from paravirt.cli import run, serve as serve
from tests.guestside.backend import hear

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

ROOT = Path(__file__).parents[2]
LOADED = serve  # what most of the time would go to


class Forks:
    """A program that forks into what it is told to be, one at a time; the first is heard."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""
        self._child = 0

    async def start(self, arguments: Sequence[str]) -> None:
        """Start `paravirt` with these arguments."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(arguments).encode() + b"\n")
        self._child = int(await self._line())

    async def kill(self) -> None:
        """Kill it by SIGKILL, and wait until nothing is left of it."""
        os.kill(self._child, signal.SIGKILL)
        ended = int(await self._line())
        self._child = 0
        assert ended == -signal.SIGKILL, f"it had ended before, with {ended}"

    def close(self) -> None:
        """Kill what runs."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
        self._process.kill()

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            more = await self._process.stdout.receive_some()
            assert more, "the program that forks has ended"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@asynccontextmanager
async def forks(first: Sequence[str]) -> AsyncGenerator[Forks]:
    """Run such a program, whose first child serves already; all is killed when this is left."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.vm.forks"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    children = Forks(process)
    try:
        await children.start(first)
        await hear(process.stderr, b"serving at")
        yield children
    finally:
        children.close()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in process.stdin, process.stdout, process.stderr:
                assert pipe is not None
                await pipe.aclose()


def main() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(run(json.loads(line)))
        os.dup2(nowhere, sys.stderr.fileno())  # nobody reads what the later ones say
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
