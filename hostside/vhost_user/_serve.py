"""Serve a device to frontends that come and go."""

from __future__ import annotations

import errno
import logging
import os
import resource
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import trio

from ._connection import serve_connection
from ._offer import Offer
from ._socket import listening
from ._terms import Terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._device import Device

    Where: TypeAlias = str | os.PathLike[str] | trio.SocketListener | trio.SocketStream

__all__ = ("serve_vhost_user",)

_log = logging.getLogger("paravirt.vhost_user")

PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED)
"""What is wrong with one connection, or until others end."""
FIRST_WAIT = 0.05
LONGEST_WAIT = 2.0
"""Seconds between two attempts to connect, doubled from the first to the longest."""


@runtime_checkable
class Closable(Protocol):
    """A device that has something to give back."""

    def close(self) -> object: ...


async def serve_vhost_user(
    device: Device | None,
    where: Where,
    *,
    connect: bool = False,
    make_device: Callable[[], Device] | None = None,
    terms: Terms | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a device to vhost-user frontends: QEMU, Cloud Hypervisor, or our own.

    `where` is a path, at which a socket is made that only this user can connect to, or a listener
    that exists already; or a stream, for one connection only. With `connect` the path is one that
    the frontend listens at: it is connected to again and again. `started()` fires when the socket
    accepts, with its path.

    One device serves one frontend at a time, and the next waits. With `make_device`, in place of
    `device`, each has its own, which is closed with the connection if it has a `close`. `terms`
    say which protocol features are offered besides those that the device is of use for. The end of
    a connection, for whatever reason, is one line in the log and never the end of this function.
    Cancelled, it closes connections and listener, and removes the socket file.

    Before it listens it raises this process's soft limit of open descriptors to the hard limit,
    since a frontend brings a dozen for each device and the usual limit is 1024; it stays raised.
    Where there is no room for one more, who connects waits until another leaves.

    Raises `OSError` if it cannot listen, `ValueError` for arguments that do not fit or a device
    that virtio does not allow.
    """
    if (device is None) == (make_device is None):
        raise ValueError("serve either a device or what make_device makes")
    if device is not None:
        Offer(device)  # a device that cannot be is told of now
    _raise_limit()
    serving = _Serving(device, make_device, terms or Terms())
    if isinstance(where, trio.SocketStream):
        task_status.started(_name(where.socket))
        await serving.serve(where)
    elif isinstance(where, trio.SocketListener):
        if connect:
            raise ValueError("a listener cannot connect")
        async with where:
            task_status.started(_name(where.socket))
            await serving.accept(where)
    elif connect:
        task_status.started(os.fspath(where))
        await serving.connect(os.fspath(where))
    else:
        path = os.fspath(where)
        with listening(path) as listener:
            task_status.started(path)
            await serving.accept(listener)


class _Serving:
    def __init__(
        self, device: Device | None, make: Callable[[], Device] | None, terms: Terms
    ) -> None:
        self._device = device
        self._make = make
        self._terms = terms

    async def accept(self, listener: trio.SocketListener) -> None:
        """Serve whoever connects, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                stream = await _next(listener)
                if self._make is None:
                    await self.serve(stream)  # the device is one: the next waits
                else:
                    nursery.start_soon(self.serve, stream)

    async def connect(self, path: str) -> None:
        """Connect and serve, for ever."""
        wait = FIRST_WAIT
        while True:
            try:
                stream = await trio.open_unix_socket(path)
            except OSError as error:
                if wait == FIRST_WAIT:
                    _log.info("cannot connect yet: %s", error)
                await trio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            started = trio.current_time()
            await self.serve(stream)
            if trio.current_time() - started > LONGEST_WAIT:
                wait = FIRST_WAIT
            await trio.sleep(wait)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one frontend."""
        async with stream:
            with ExitStack() as stack:
                device = self._device
                if device is None:
                    assert self._make is not None
                    try:
                        device = self._make()
                    except Exception:  # noqa: BLE001
                        _log.exception("connection closed: no device could be made for it")
                        return
                    if isinstance(device, Closable):
                        stack.callback(_give_back, device)
                await serve_connection(device, stream.socket, self._terms)


async def _next(listener: trio.SocketListener) -> trio.SocketStream:
    """Accept a connection; without room for it wait, as it does, until there is some."""
    told = False
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            if not told:
                _log.warning("cannot accept for now: %s", error)
            told = True
        await trio.sleep(FIRST_WAIT)


def _give_back(device: Closable) -> None:
    try:
        device.close()
    except Exception:  # noqa: BLE001
        _log.exception("the device of a connection could not be closed")


def _name(sock: trio.socket.SocketType) -> str:
    name: object = sock.getsockname()
    return name if isinstance(name, str) else ""


def _raise_limit() -> None:
    """Let this process have as many descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
