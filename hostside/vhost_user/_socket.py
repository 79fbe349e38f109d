"""Where frontends connect to: a socket file that is ours alone, or one to connect to."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ()  # of use to this room only

BACKLOG = 64
MODE = 0o600


@contextmanager
def listening(path: str) -> Generator[trio.SocketListener, None, None]:
    """Listen at a path; the file goes with the listener, if it is still ours.

    Only we may connect to it. A socket file that nobody listens at any more is replaced. Raises
    `OSError` for a path where anything else is, a symbolic link too.
    """
    _remove_stale(path)
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        os.fchmod(sock.fileno(), MODE)  # Linux gives the file the mode that the socket has
        _bind(sock, path)
        ours = _identity(path)
        try:
            sock.listen(BACKLOG)
            yield trio.SocketListener(sock)
        finally:
            if ours is not None and _identity(path) == ours:
                with suppress(OSError):
                    os.unlink(path)


def _bind(sock: trio.socket.SocketType, path: str) -> None:
    try:
        # Not trio's own bind, which would go to a thread for a name to resolve.
        raw = socket.socket(fileno=os.dup(sock.fileno()))
        with raw:
            raw.bind(path)
    except OSError as error:
        raise OSError(error.errno or errno.EINVAL, f"cannot listen: {error}", path) from None


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "this is no socket, and is not replaced", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # whoever made it is gone
            return
        except BlockingIOError:
            pass  # somebody listens, and is busy
    raise OSError(errno.EADDRINUSE, "somebody listens there already", path)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
