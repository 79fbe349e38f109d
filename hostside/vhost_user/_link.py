"""The device's end of a vhost-user connection, as the server sees it."""

from __future__ import annotations

import math
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio

from paravirt.transport import PeerError, Status, SwapRefused
from paravirt.transport.link import ConfigWrite, DriverReady, QueueStart, QueueStop, Reset
from paravirt.transport.vhost_user import (
    BACKEND_REQUESTS,
    BackendRequest,
    Channel,
    ProtocolFeature,
    payloads as p,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.doorbells import DoorbellMaker
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
        self._owed: dict[tuple[BackendRequest, int | None], None] = {}
        """What the frontend is still to be told over the back channel, of which queue."""
        self._untold = trio.Event()
        self._closed = False
        for vring in vrings:
            vring.call.otherwise = partial(self._owe, BackendRequest.VRING_CALL, vring.index)

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
        self._owe(BackendRequest.CONFIG_CHANGE_MSG)

    def need_reset(self) -> None:
        """Set DEVICE_NEEDS_RESET and tell the frontend (virtio 1.4, 2.1.2)."""
        self.status |= Status.DEVICE_NEEDS_RESET
        self._owe(BackendRequest.CONFIG_CHANGE_MSG)

    def signal_error(self, queue: int) -> None:
        """Ring the error descriptor of a queue, or send a message, if either was agreed on."""
        if not self._vrings[queue].signal_error():
            self._owe(BackendRequest.VRING_ERR, queue)

    def close_device_end(self) -> None:
        """Close this end; idempotent. The session then ends."""
        self._closed = True
        self._put.close()
        self._drop_back()

    async def swap(self, maker: DoorbellMaker, queue: int = 0) -> None:
        """Raise `SwapRefused`: nobody could tell the driver."""
        del maker, queue  # all are refused alike
        await trio.lowlevel.checkpoint()
        raise SwapRefused("the doorbell of a vhost-user queue is the frontend's to choose")

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
        self._untold.set()

    async def tell(self) -> None:
        """Tell the frontend what it is owed, for ever; the same of one queue is told once.

        A task of its own: a frontend that does not read its back channel, or waits for an answer
        itself, must not hold up the session.
        """
        while True:
            await self._untold.wait()
            self._untold = trio.Event()
            while self._owed and (back := self._back) is not None:
                owed = next(iter(self._owed))
                del self._owed[owed]
                request, queue = owed
                payload = p.EMPTY if queue is None else p.VringState(queue, 0)
                # In band each is waited for, or too many of them would fill the socket.
                back.acknowledges = ProtocolFeature.INBAND_NOTIFICATIONS in self.protocol
                try:
                    (await back.request(request, payload)).close()
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    if self._back is not back:  # the frontend has sent another
                        self._owed[owed] = None

    def _owe(self, request: BackendRequest, queue: int | None = None) -> None:
        """Have `tell` send this, if what it needs was agreed on."""
        if BACKEND_REQUESTS[request].needs & self.protocol:
            self._owed[request, queue] = None
            self._untold.set()

    def _drop_back(self) -> None:
        if self._back is not None:
            self._back.close()
            self._back = None
