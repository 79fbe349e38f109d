"""What a vhost-user frontend and a backend agree on before any queue runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from paravirt.transport.vhost_user import (
    PROTOCOL_FEATURES,
    REQUESTS,
    VHOST_F_LOG_ALL,
    Channel,
    Dialect,
    ProtocolFeature,
    Request,
)
from paravirt.transport.vhost_user.payloads import EMPTY, Number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.transport.vhost_user.payloads import Payload

__all__ = ()  # of use to this room only

MAX_QUEUES = 256
"""SET_VRING_KICK and its like have 8 bits for the queue."""


class Session:
    """The main channel of a frontend, and what its backend offered.

    All methods raise `NegotiationError` for what the backend refuses, `PeerError` for what it may
    not send, and `trio.BrokenResourceError` when it is gone.
    """

    def __init__(self, sock: trio.socket.SocketType, dialect: Dialect) -> None:
        """Take over a connected socket."""
        self.channel = Channel(sock, REQUESTS)
        self.features = 0
        """The virtio features that the backend offers, without those of vhost-user itself."""
        self.wire_features = 0
        """All feature bits as they came."""
        self.wire_protocol = 0
        """All protocol feature bits as they came."""
        self.framed = False
        """Whether there are protocol features, and so queues start disabled."""
        self.offered = ProtocolFeature(0)
        """The protocol features that the backend offers, as far as the dialect has words."""
        self.agreed = ProtocolFeature(0)
        """Those that both ends use."""
        self.queues: int | None = None
        """How many queues the backend has at most; None if it does not say."""
        self.slots = 0
        """How many memory regions can be added; 0 if only a table can be set."""
        self._dialect = dialect
        self._home = trio.lowlevel.current_trio_token()

    async def ask(
        self, request: Request, payload: Payload = EMPTY, fds: Sequence[int] = ()
    ) -> Payload:
        """Send a request and return what answers it, `EMPTY` if nothing does.

        May be called in another trio run than the session was made in, in another thread.
        """
        if trio.lowlevel.current_trio_token() is self._home:
            return await self._ask(request, payload, fds)
        there = partial(self._ask, request, payload, fds)
        return await trio.to_thread.run_sync(
            partial(trio.from_thread.run, there, trio_token=self._home)
        )

    async def _ask(self, request: Request, payload: Payload, fds: Sequence[int]) -> Payload:
        try:
            with await self.channel.request(request, payload, fds) as reply:
                return reply.payload
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("the backend's connection was closed") from None

    async def number(self, request: Request) -> int:
        """Ask for a number."""
        answer = await self.ask(request)
        assert isinstance(answer, Number)
        return answer.value

    async def agree(self, wanted: ProtocolFeature) -> None:
        """Ask what the backend is, take of the wanted protocol features what it offers, own it."""
        self.wire_features = await self.number(Request.GET_FEATURES)
        self.features = self.wire_features & ~(PROTOCOL_FEATURES | VHOST_F_LOG_ALL)
        self.framed = bool(self.wire_features & PROTOCOL_FEATURES)
        if self.framed:
            self.wire_protocol = await self.number(Request.GET_PROTOCOL_FEATURES)
            self.offered = self._dialect.from_wire(self.wire_protocol)
            self.agreed = self.offered & wanted
            await self.ask(
                Request.SET_PROTOCOL_FEATURES, Number(self._dialect.to_wire(self.agreed))
            )
            self.channel.acknowledges = ProtocolFeature.REPLY_ACK in self.agreed
        if ProtocolFeature.MQ in self.agreed:
            self.queues = min(await self.number(Request.GET_QUEUE_NUM), MAX_QUEUES)
        if ProtocolFeature.CONFIGURE_MEM_SLOTS in self.agreed:
            self.slots = await self.number(Request.GET_MAX_MEM_SLOTS)
        await self.ask(Request.SET_OWNER)
