"""The sockets between us and QEMU: each a pair, so that nobody else can connect."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ()  # of use to this room only


class Wires:
    """Socket pairs whose other ends a process inherits; leaving closes what is left of ours."""

    def __init__(self) -> None:
        self._ours: list[trio.SocketStream] = []
        self._theirs: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hand_over()
        for stream in self._ours:
            stream.socket.close()

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors that the process has to inherit."""
        return tuple(sock.fileno() for sock in self._theirs)

    def add(self) -> tuple[trio.SocketStream, int]:
        """Make one more; returns our end, and the descriptor of the other."""
        ours, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._ours.append(stream)
        self._theirs.append(theirs)
        return stream, theirs.fileno()

    def hand_over(self) -> None:
        """Close the other ends here: the process has them now."""
        for sock in self._theirs:
            sock.close()
        self._theirs.clear()
