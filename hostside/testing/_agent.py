"""Our end of the conversation with the guest's first process; `_setup` has the other."""

from __future__ import annotations

import base64
import itertools
import logging
import math
from typing import TYPE_CHECKING

import trio

from ._errors import GuestError
from ._result import Result

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ()  # of use to this room only

_log = logging.getLogger("paravirt.testing")
_numbers = itertools.count(1)  # of all guests: one that migrates takes its commands with it
LAST = 2000
"""Characters that are shown of the output of a command that did not end."""


class Agent:
    """Runs commands in the guest."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        # A line is sent whole, whoever is cancelled meanwhile.
        self._put, self._lines = trio.open_memory_channel[str](math.inf)
        self._running: dict[str, _Command] = {}
        self._ready = trio.Event()
        self._ended: str | None = None

    async def listen(self) -> None:
        """Take what the guest says, until it ends."""
        async for line in _lines(self._stream):
            match line.split():
                case [b"ready", *_]:
                    self._ready.set()
                case [b"out", number, piece] if command := self._command(number):
                    command.output += base64.b64decode(piece)
                case [b"end", number, status] if command := self._command(number):
                    command.finish(int(status))
                case _:
                    pass  # of a command that was given up

    async def talk(self) -> None:
        """Send what there is for the guest, for ever."""
        async for line in self._lines:
            try:
                await self._stream.send_all(line.encode() + b"\n")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # its end is told by `end`

    async def ready(self) -> None:
        """Wait until the guest listens. Raises `GuestError` if it ended instead."""
        await self._ready.wait()
        self._check()

    def expect_ready(self) -> None:
        """Let `ready` wait for the next start of the guest."""
        self._ready = trio.Event()

    def end(self, reason: str) -> None:
        """Fail whatever waits for the guest."""
        self._ended = reason
        self._ready.set()
        for command in self._running.values():
            command.ended.set()

    async def run(self, script: str) -> Result:
        """Run a script; see `LinuxGuest.run`."""
        self._check()
        number = str(next(_numbers))
        command = self._running[number] = _Command()
        try:
            self._put.send_nowait(f"run {number} {base64.b64encode(script.encode()).decode()}")
            await command.ended.wait()
        except trio.Cancelled:
            _log.warning("given up: %s: it said: %s", script.strip(), command.text()[-LAST:])
            self._put.send_nowait(f"kill {number}")
            raise
        finally:
            del self._running[number]
        if command.status is None:
            self._check()
        assert command.status is not None
        return Result(command.status, command.text())

    def _command(self, number: bytes) -> _Command | None:
        return self._running.get(number.decode())

    def _check(self) -> None:
        if self._ended is not None:
            raise GuestError(self._ended)


class _Command:
    def __init__(self) -> None:
        self.output = bytearray()
        self.status: int | None = None
        self.ended = trio.Event()

    def finish(self, status: int) -> None:
        self.status = status
        self.ended.set()

    def text(self) -> str:
        return self.output.decode(errors="replace")


async def _lines(stream: trio.SocketStream) -> AsyncGenerator[bytes]:
    rest = b""
    try:
        async for piece in stream:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
