"""The device's end of a vhost-user connection, as the server sees it."""

from __future__ import annotations

import math
import os
import socket
from typing import TYPE_CHECKING, TypeAlias

import trio

from paravirt.transport import PeerError, Status
from paravirt.transport.link import ConfigWrite, DriverReady, QueueStart, QueueStop, Reset
from paravirt.transport.vhost_user import (
    BACKEND_REQUESTS,
    BackendRequest,
    Channel,
    ProtocolFeature,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.transport.vhost_user import Descriptors

    from ._vring import Vring

__all__ = ()  # of use to this room only

Change: TypeAlias = QueueStart | QueueStop | DriverReady | ConfigWrite | Reset


class BackendLink:
    """A `DeviceLink`; the session feeds it with what the frontend does."""

    def __init__(self, vrings: Sequence[Vring], config: bytes) -> None:
        self.config = config
        self.status = 0
        self.protocol = ProtocolFeature(0)
        """What was agreed on."""
        self._vrings = vrings
        self._put, self._changes = trio.open_memory_channel[Change](math.inf)
        self._back: Channel | None = None
        self._untold = trio.Event()
        self._closed = False

    # For the server.

    async def next_change(self) -> Change | None:
        """Wait for what the frontend does next; None when it is gone, or this end closed."""
        try:
            return await self._changes.receive()
        except trio.EndOfChannel:
            return None

    def set_config(self, config: bytes) -> None:
        """Replace the configuration space and tell the frontend."""
        if len(config) != len(self.config):
            raise ValueError(f"{len(config)} bytes for a space of {len(self.config)}")
        self.config = config
        self._untold.set()

    def need_reset(self) -> None:
        """Set DEVICE_NEEDS_RESET and tell the frontend (virtio 1.4, 2.1.2)."""
        self.status |= Status.DEVICE_NEEDS_RESET
        self._untold.set()

    def signal_error(self, queue: int) -> None:
        """Ring the error descriptor of a queue, if there is one."""
        self._vrings[queue].signal_error()

    def close_device_end(self) -> None:
        """Close this end; idempotent. The session then ends."""
        self._closed = True
        self._put.close()
        self._drop_back()

    # For the session.

    @property
    def closed(self) -> bool:
        """Whether the server closed it."""
        return self._closed

    def change(self, change: Change) -> None:
        """Let the server know. Raises `trio.ClosedResourceError` once it is gone."""
        self._put.send_nowait(change)

    def set_back_channel(self, fds: Descriptors) -> None:
        """Take the back channel; one before is closed. Raises `PeerError` if it is no socket."""
        fd = fds.take()
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise PeerError("the back channel is no socket") from None
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            sock.close()
            raise PeerError("the back channel is no Unix stream socket")
        self._drop_back()
        self._back = Channel(trio.socket.from_stdlib_socket(sock), BACKEND_REQUESTS)

    async def tell(self) -> None:
        """Tell the frontend of changes, for ever; several may be told as one.

        A task of its own: a frontend that does not read its back channel, or waits for an answer
        itself, must not hold up the session.
        """
        while True:
            await self._untold.wait()
            self._untold = trio.Event()
            if self._back is None or ProtocolFeature.CONFIG not in self.protocol:
                continue
            try:
                (await self._back.request(BackendRequest.CONFIG_CHANGE_MSG)).close()
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the frontend has closed it or sent another; it reads the space when it wants

    def _drop_back(self) -> None:
        if self._back is not None:
            self._back.close()
            self._back = None
