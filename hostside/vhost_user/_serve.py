"""Serve a device to frontends that come and go."""

from __future__ import annotations

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
    from collections.abc import Awaitable, Callable

    from .._device import Device

    Where: TypeAlias = str | os.PathLike[str] | trio.SocketListener | trio.SocketStream

__all__ = ("serve_vhost_user",)

_log = logging.getLogger("paravirt.vhost_user")

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
        if self._make is not None:
            await trio.serve_listeners(self.serve, [listener])
        while True:
            await self._survive(listener.accept)

    async def _survive(self, accept: Callable[[], Awaitable[trio.SocketStream]]) -> None:
        try:
            stream = await accept()
        except OSError as error:  # out of descriptors: wait until some are free
            _log.warning("cannot accept: %s", error)
            await trio.sleep(FIRST_WAIT)
        else:
            await self.serve(stream)

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


def _give_back(device: Closable) -> None:
    try:
        device.close()
    except Exception:  # noqa: BLE001
        _log.exception("the device of a connection could not be closed")


def _name(sock: trio.socket.SocketType) -> str:
    name: object = sock.getsockname()
    return name if isinstance(name, str) else ""


def _raise_limit() -> None:
    """Let this process have as many descriptors as it may: a frontend brings dozens."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
