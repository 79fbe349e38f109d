"""QEMU's own protocol for commands to it (QMP)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from ._errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ()  # of use to this room only

LONGEST = 1 << 20  # far above any answer


class _Failure(msgspec.Struct, frozen=True):
    desc: str


class _Answer(msgspec.Struct, frozen=True):
    """A line of QEMU's: an answer, or an event, which has no `id`."""

    id: int | None = None
    result: Any = msgspec.field(name="return", default=None)
    error: _Failure | None = None


class Monitor:
    """One conversation, a command at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lock = trio.StrictFIFOLock()
        self._numbers = itertools.count()
        self._rest = b""

    async def execute(self, command: str, arguments: Mapping[str, object]) -> Any:
        """Carry out a command and return its answer; see `LinuxGuest.qmp`."""
        async with self._lock:
            try:
                if next(self._numbers) == 0:
                    await self._ask("qmp_capabilities", {})
                return await self._ask(command, arguments)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise GuestError(f"QEMU has ended before it carried out {command}") from None

    async def _ask(self, command: str, arguments: Mapping[str, object]) -> Any:
        number = next(self._numbers)
        question = {"execute": command, "arguments": arguments, "id": number}
        await self._stream.send_all(msgspec.json.encode(question) + b"\n")
        while True:
            answer = msgspec.json.decode(await self._line(), type=_Answer)
            if answer.id != number:
                continue  # an event, or the answer to one who was cancelled
            if answer.error is not None:
                raise GuestError(f"QEMU refused {command}: {answer.error.desc}")
            return answer.result

    async def _line(self) -> bytes:
        while b"\n" not in self._rest:
            piece = await self._stream.receive_some()
            if not piece or len(self._rest) > LONGEST:
                raise trio.BrokenResourceError
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line
