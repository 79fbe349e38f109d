"""File descriptors that a peer sent: owned from the moment they arrive, closed on every path."""

from __future__ import annotations

import array
import os
import socket
import weakref
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = ("Descriptors",)


class Descriptors:
    """Some open descriptors. Whoever wants one takes it; `close` closes those that are left."""

    def __init__(self, fds: Iterable[int] = ()) -> None:
        """Take over descriptors."""
        self._fds = list(fds)
        self.close = weakref.finalize(self, _close, self._fds)
        """Close all that nobody took; idempotent."""

    def __len__(self) -> int:
        return len(self._fds)

    def take(self) -> int:
        """Return the first, the caller's from now on. Raises IndexError if none is left."""
        return self._fds.pop(0)

    def add(self, ancillary: Iterable[tuple[int, int, bytes]]) -> None:
        """Take over the descriptors in the control messages of a socket."""
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._fds += fds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
