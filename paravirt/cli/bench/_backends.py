"""Backends to measure beside each other: ours, and QEMU's storage daemon in each of its modes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from .._errors import BadInput, complain
from .._programs import find_program
from ._report import OURS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

DAEMON = "qemu-storage-daemon"
MODES = {
    "threads": "aio=threads",
    "native": "aio=native,cache.direct=on",  # Linux AIO is asynchronous for direct I/O only
    "io_uring": "aio=io_uring",
}
START_SECONDS = 20.0
"""Python starts in 0.3 s, the daemon in 0.1; a busy machine takes ten times as long."""


def our_command(image: Path, path: Path) -> list[str]:
    """Return the command that serves an image."""
    return [sys.executable, "-m", "paravirt", "serve", "block", str(image), f"--socket-path={path}"]


def daemon_command(program: str, mode: str, image: Path, path: Path) -> list[str]:
    """Return the command that exports an image from an I/O thread of its own."""
    export = f"type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path={path}"
    return [
        program,
        "--object=iothread,id=t0",
        f"--blockdev=driver=file,node-name=d0,filename={image},{MODES[mode]}",
        f"--export={export},writable=on,iothread=t0",
    ]


@asynccontextmanager
async def backends(folder: Path, content: bytes) -> AsyncGenerator[dict[str, Path]]:
    """Start all that this machine has, each on a file of its own with the same content.

    Yields their sockets by name. All run on the first CPU, and the load has the last one. One that
    does not start is left out, with a line that says why. Raises `BadInput` if ours does not.
    """
    found: dict[str, Path] = {}
    async with trio.open_nursery() as nursery:
        for name, command in _commands(folder, content):
            reason = await nursery.start(_run, name, command, folder / f"{name}.sock")
            if reason is None:
                found[name] = folder / f"{name}.sock"
            elif name == OURS:
                raise BadInput(f"our own backend did not start: {reason}")
            else:
                complain(f"without {name}: {reason}")
        try:
            yield found
        finally:
            nursery.cancel_scope.cancel()


def _commands(folder: Path, content: bytes) -> list[tuple[str, Sequence[str]]]:
    program = find_program(DAEMON)
    if program is None:
        complain(f"without {DAEMON}: apt-get install qemu-system-common (or qemu-utils)")
    makers = {OURS: our_command}
    if program is not None:
        makers |= {f"{DAEMON}-{mode}": partial(daemon_command, program, mode) for mode in MODES}
    commands: list[tuple[str, Sequence[str]]] = []
    for name, make in makers.items():
        image = folder / f"{name}.img"
        image.write_bytes(content)
        commands.append((name, make(image, folder / f"{name}.sock")))
    return commands


async def _run(
    name: str,
    command: Sequence[str],
    path: Path,
    *,
    task_status: trio.TaskStatus[str | None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a backend until cancelled; started with None, or with why it ended."""
    log = path.with_suffix(".log")
    first = min(os.sched_getaffinity(0))
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=partial(os.sched_setaffinity, 0, {first}),
        )
    try:
        listens = False
        with trio.move_on_after(START_SECONDS):
            while process.poll() is None and not listens:
                await trio.sleep(0.01)
                listens = await trio.Path(path).is_socket()
        if process.poll() is not None or not listens:
            said = log.read_text(errors="replace").strip().splitlines()
            task_status.started(said[-1] if said else f"{name} says nothing")
            return
        task_status.started(None)
        await process.wait()
        complain(f"{name} ended with {process.returncode}: {log.read_text(errors='replace')}")
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
