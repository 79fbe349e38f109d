"""`paravirt serve block` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from tests.guestside.backend import hear

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path


@asynccontextmanager
async def served_by_command(image: Path, socket: Path, *options: str) -> AsyncGenerator[None]:
    """Serve an image at a path by the command, which has to end well when it is told to."""
    command = ["serve", "block", str(image), "--socket-path", str(socket), *options]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "paravirt", *command], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with process.stderr:
            await hear(process.stderr, b"attach it with")  # which is printed once it listens
            yield
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
    assert process.returncode == 0
