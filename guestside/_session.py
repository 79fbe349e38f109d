"""What a vhost-user frontend and a backend agree on before any queue runs."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from paravirt.transport import NegotiationError, Status, describe_features
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
    from collections.abc import Awaitable, Callable, Sequence

    from paravirt.transport.vhost_user.payloads import Payload

__all__ = ()  # of use to this room only

T = TypeVar("T")

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
        self.ended = trio.Event()
        """The connection is over, whichever end closed it."""
        self._dialect = dialect
        self._home = trio.lowlevel.current_trio_token()

    async def at_home(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something in the trio run that the session was made in, wherever the caller is."""
        if trio.lowlevel.current_trio_token() is self._home:
            return await work()
        return await trio.to_thread.run_sync(
            partial(trio.from_thread.run, work, trio_token=self._home)
        )

    async def ask(
        self, request: Request, payload: Payload = EMPTY, fds: Sequence[int] = ()
    ) -> Payload:
        """Send a request and return what answers it, `EMPTY` if nothing does.

        May be called in another trio run than the session was made in, in another thread.
        """
        answer, fd = await self.at_home(partial(self._ask, request, payload, fds))
        if fd is not None:
            os.close(fd)
        return answer

    async def ask_for_file(self, request: Request, payload: Payload) -> tuple[Payload, int | None]:
        """Send a request; returns what answers it, and a descriptor of the caller's if one came."""
        return await self.at_home(partial(self._ask, request, payload, ()))

    async def _ask(
        self, request: Request, payload: Payload, fds: Sequence[int]
    ) -> tuple[Payload, int | None]:
        try:
            with await self.channel.request(request, payload, fds) as reply:
                return reply.payload, reply.fds.take() if reply.fds else None
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("the backend's connection was closed") from None
        finally:
            if self.channel.closed:
                self.ended.set()

    async def number(self, request: Request) -> int:
        """Ask for a number."""
        answer = await self.ask(request)
        assert isinstance(answer, Number)
        return answer.value

    def check_like(self, other: Session) -> None:
        """Raise `NegotiationError` unless this is a backend that can take the place of another."""
        features = describe_features(other.features & ~self.features)
        if lacking := [*features, *(other.agreed & ~self.agreed).words]:
            raise NegotiationError(f"another device than before: it lacks {', '.join(lacking)}")
        if self.queues is not None and other.queues is not None and self.queues < other.queues:
            raise NegotiationError(f"it has {self.queues} queues, the one before {other.queues}")

    @property
    def in_band(self) -> bool:
        """Whether kicks and calls are messages."""
        return ProtocolFeature.INBAND_NOTIFICATIONS in self.agreed

    async def status(self) -> Status:
        """Ask for the device status, 0 if the backend does not know of it."""
        if ProtocolFeature.STATUS not in self.agreed:
            return Status(0)
        return Status(await self.number(Request.GET_STATUS) & 0xFF)

    async def agree(self, wanted: ProtocolFeature, needed: ProtocolFeature) -> None:
        """Ask what the backend is, take of the wanted protocol features what it offers, own it.

        Raises `NegotiationError` for one that lacks any of the needed.
        """
        self.wire_features = await self.number(Request.GET_FEATURES)
        self.features = self.wire_features & ~(PROTOCOL_FEATURES | VHOST_F_LOG_ALL)
        self.framed = bool(self.wire_features & PROTOCOL_FEATURES)
        if self.framed:
            self.wire_protocol = await self.number(Request.GET_PROTOCOL_FEATURES)
            self.offered = self._dialect.from_wire(self.wire_protocol)
        if lacking := needed & ~self.offered:
            raise NegotiationError(f"the backend lacks {', '.join(lacking.words)}")
        if self.framed:
            self.agreed = self.offered & (wanted | needed)
            await self.ask(
                Request.SET_PROTOCOL_FEATURES, Number(self._dialect.to_wire(self.agreed))
            )
            self.channel.acknowledges = ProtocolFeature.REPLY_ACK in self.agreed
        if ProtocolFeature.MQ in self.agreed:
            self.queues = min(await self.number(Request.GET_QUEUE_NUM), MAX_QUEUES)
        if ProtocolFeature.CONFIGURE_MEM_SLOTS in self.agreed:
            self.slots = await self.number(Request.GET_MAX_MEM_SLOTS)
        await self.ask(Request.SET_OWNER)


async def connect(
    path: str | os.PathLike[str],
    dialect: Dialect,
    wanted: ProtocolFeature,
    needed: ProtocolFeature,
) -> Session:
    """Connect to a backend and agree with it. Raises `OSError` if nobody listens there."""
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await sock.connect(os.fspath(path))
    except BaseException:
        sock.close()
        raise
    session = Session(sock, dialect)
    try:
        await session.agree(wanted, needed)
    except BaseException:
        session.channel.close()
        raise
    return session
