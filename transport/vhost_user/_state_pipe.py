"""The way that a device's state goes from one backend to the next: a pipe, or a file in memory."""

from __future__ import annotations

import fcntl
import os
import stat
import weakref
from typing import TYPE_CHECKING, Self

import trio

from .._errors import PeerError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("StatePipe",)

MAX_STATE = 16 << 20
"""Bytes of state: what a device keeps besides guest memory is small."""
PIECE = 65536
"""Bytes that a new pipe has room for."""


class StatePipe:
    """A descriptor that a peer sent, or that is shared with one.

    The peer can clear O_NONBLOCK, and take what was there to read: so bytes go through a pipe of
    our own, by `splice`, which can be told not to wait whatever the flags are. A file in memory
    never makes anybody wait.
    """

    def __init__(self, fd: int) -> None:
        """Take over a descriptor. Raises `PeerError`, closing it, for any other kind of file."""
        self._fd = fd
        self.close = weakref.finalize(self, os.close, fd)
        """Close it, by which a reader learns that all was written; idempotent."""
        mode = os.fstat(fd).st_mode
        self._pipe = stat.S_ISFIFO(mode)
        if not self._pipe and not (stat.S_ISREG(mode) and _in_memory(fd)):
            self.close()
            raise PeerError("a device's state goes through a pipe or a memfd, and this is neither")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def send(self, data: bytes) -> None:
        """Write all of it. Raises `OSError` if the reader is gone. Cancelled, some is written."""
        await trio.lowlevel.checkpoint()
        if not self._pipe:
            while data:
                data = data[os.write(self._fd, data) :]
            return
        with _Pipe() as (inside, outside):
            for start in range(0, len(data), PIECE):
                left = os.write(outside, data[start : start + PIECE])
                while left:
                    left -= await self._splice(inside, self._fd, left)

    async def receive(self) -> bytes:
        """Read up to its end. Raises `PeerError` for more than anybody needs, `OSError`.

        Cancelled, some is lost.
        """
        await trio.lowlevel.checkpoint()
        data = bytearray()
        with _Pipe() as (inside, outside):
            while piece := await self._next(inside, outside):
                data += piece
                if len(data) > MAX_STATE:
                    raise PeerError(f"a device's state of more than {MAX_STATE} bytes")
        return bytes(data)

    async def _next(self, inside: int, outside: int) -> bytes:
        if not self._pipe:
            return os.read(self._fd, PIECE)
        moved = await self._splice(self._fd, outside, PIECE)
        return os.read(inside, moved) if moved else b""

    async def _splice(self, source: int, target: int, size: int) -> int:
        """Move bytes as soon as there are some, and room; 0 at the end."""
        wait = trio.lowlevel.wait_readable
        if target == self._fd:
            wait = trio.lowlevel.wait_writable
        while True:
            await wait(self._fd)
            try:
                return os.splice(source, target, size, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                pass  # the peer took it, or filled it up


class _Pipe:
    """A pipe of our own."""

    def __enter__(self) -> tuple[int, int]:
        self._fds = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        return self._fds

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


def _in_memory(fd: int) -> bool:
    """Say whether it is a file that can be sealed, which those on disks and networks cannot."""
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True
