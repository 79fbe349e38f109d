"""QEMU's own monitor, by which a test migrates a machine."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Qmp:
    """One monitor; commands go one at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._rest = b""

    async def ask(self, command: str, **arguments: object) -> Any:
        """Run a command and return what it returns; events on the way are skipped."""
        line = json.dumps({"execute": command, "arguments": arguments}).encode()
        await self._stream.send_all(line + b"\n")
        while "return" not in (answer := await self.hear()):
            assert "error" not in answer, f"{command}: {answer}"
        return answer["return"]

    async def hear(self) -> dict[str, Any]:
        """Wait for the next line that QEMU says."""
        while b"\n" not in self._rest:
            more = await self._stream.receive_some()
            assert more, "QEMU has ended"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said


@asynccontextmanager
async def monitored(path: str) -> AsyncGenerator[trio.SocketListener]:
    """Listen for QEMU at a path, which `-qmp unix:PATH` connects to."""
    with trio.socket.socket(trio.socket.AF_UNIX) as sock:
        await sock.bind(path)
        sock.listen(1)
        yield trio.SocketListener(sock)


@asynccontextmanager
async def monitor(listener: trio.SocketListener) -> AsyncGenerator[Qmp]:
    """Give the monitor of the QEMU that connects."""
    async with await listener.accept() as stream:
        qmp = Qmp(stream)
        await qmp.hear()
        await qmp.ask("qmp_capabilities")
        yield qmp
