"""One direction of vhost-user over a Unix socket: requests one way, their replies back.

The main socket of a device is one channel, on which the frontend asks; the back channel is another,
on which the backend asks. Both ends use this class.
"""

from __future__ import annotations

import array
import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import trio

from .._errors import NegotiationError, PeerError
from ._descriptors import Descriptors
from ._messages import HEADER_SIZE, Flags, Header, Message, Reply
from .payloads import EMPTY, MAX_FDS, Empty, Number, Payload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ("Channel", "Incoming")

_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
"""Room for the descriptors of one message. The kernel closes what does not fit, and says so."""
_DONT_WAIT = socket.MSG_DONTWAIT
"""A peer that keeps the socket that it gave us as a back channel can clear its O_NONBLOCK."""
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


@dataclass(frozen=True)
class Incoming:
    """A message that came. It owns its descriptors: close it, or use it in a `with` block."""

    header: Header
    message: Message | None
    """Its row of the table; None for one that is not in it, which may still want an answer."""
    payload: Payload
    """Checked; `EMPTY` for a message that is not in the table, whose bytes are thrown away."""
    fds: Descriptors

    @property
    def need_reply(self) -> bool:
        """Whether the sender asks for an acknowledgement."""
        return Flags.NEED_REPLY in self.header.flags

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        self.fds.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Channel:
    """A socket on which one side asks by a table and the other answers.

    All methods raise `trio.BrokenResourceError` when the peer is gone, `trio.ClosedResourceError`
    once it is closed here, and `PeerError` for what the peer may not send. It is closed after a
    `PeerError`, and when a cancellation left a message or an exchange half done.
    """

    def __init__(self, sock: trio.socket.SocketType, table: Mapping[int, Message]) -> None:
        """Take over a connected Unix stream socket."""
        self._socket = sock
        self._table = table
        self._closed = False
        self._asking = trio.Lock()
        self._sending = trio.Lock()
        self.acknowledges = False
        """Whether REPLY_ACK was agreed on, so that `request` asks for acknowledgements."""

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""
        return self._closed

    def fileno(self) -> int:
        """Return the socket's descriptor, to watch for its end; -1 once it is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end, and wake who waits at it; idempotent."""
        self._closed = True
        self._socket.close()

    # Who answers.

    async def receive(self) -> Incoming | None:
        """Wait for the next request; None when the peer closed its end between two messages.

        Cancelled before a message began to arrive, it had no effect.
        """
        return await self._receive(reply=None)

    async def reply(self, request: int, payload: Payload, fds: Sequence[int] = ()) -> None:
        """Answer a request. The descriptors stay the caller's.

        Cancelled before a byte of it was sent, it had no effect; later, the channel is closed.
        """
        await self._send(request, Flags.REPLY, payload, fds)

    async def acknowledge(self, incoming: Incoming, value: int = 0) -> None:
        """Answer a request that asks for it with success, 0, or another number."""
        if incoming.need_reply:
            await self.reply(incoming.header.request, Number(value))

    # Who asks.

    async def request(
        self, request: int, payload: Payload = EMPTY, fds: Sequence[int] = ()
    ) -> Incoming:
        """Send a request and wait for what answers it, if anything does; close what is returned.

        Several tasks may ask at once, they take turns. The descriptors stay the caller's. Raises
        `NegotiationError` if the peer refuses.

        Cancelled before a byte of it was sent, it had no effect; later, the channel is closed: the
        peer may carry the request out, and its answer would be taken for that to the next one.
        """
        row = self._table[request]
        async with self._asking:
            own = row.reply is Reply.OWN
            flags = Flags(0) if own or not self.acknowledges else Flags.NEED_REPLY
            await self._send(request, flags, payload, fds)
            if not own and not flags:
                return Incoming(Header(request, Flags.REPLY, 0), row, EMPTY, Descriptors())
            incoming = await self._receive(reply=row)
            if incoming is None:
                raise trio.BrokenResourceError(f"the peer closed before it answered {row.name}")
        return _judge(row, incoming)

    # Both.

    async def _send(self, request: int, flags: Flags, payload: Payload, fds: Sequence[int]) -> None:
        data = payload.to_bytes()
        message = Header(request, Flags.VERSION | flags, len(data)).to_bytes() + data
        rights = array.array("i", fds)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
        async with self._sending:
            sent = 0
            try:
                sent = await self._socket.sendmsg([message], ancillary, _DONT_WAIT)
                while sent < len(message):
                    sent += await self._socket.send(message[sent:], _DONT_WAIT)
            except OSError as error:
                raise self._gone(error) from error
            except trio.Cancelled:
                if sent:
                    self.close()
                raise

    async def _receive(self, reply: Message | None) -> Incoming | None:
        """Receive a request, or the reply to one."""
        fds = Descriptors()
        began = False
        try:
            head = await self._read(HEADER_SIZE, fds, may_end=True)
            if head is None:
                return None
            began = True
            header = Header.from_bytes(head)
            row = self._expect(header, reply)
            data = await self._read(header.size, fds)
            assert data is not None
            return Incoming(header, row, _parse(row, header, data, fds), fds)
        except BaseException as error:
            fds.close()
            if began or isinstance(error, PeerError) or reply:
                self.close()
            raise

    def _expect(self, header: Header, reply: Message | None) -> Message | None:
        """Check what can be checked before the payload is read."""
        row = reply or self._table.get(header.request)
        if reply is not None and header.request != reply.id:
            raise PeerError(f"request {header.request} was answered, not {reply.name}")
        if (Flags.REPLY in header.flags) != (reply is not None):
            raise PeerError(f"request {header.request}: {'a' if reply else 'no'} reply was due")
        if reply is not None and reply.reply is Reply.ACK:
            Number.check_size(header.size)
        elif row is not None:
            row.check_size(header.size, reply=reply is not None)
        return row

    async def _read(self, size: int, fds: Descriptors, *, may_end: bool = False) -> bytes | None:
        """Read exactly so much; None for an end before the first byte, where one may be."""
        data = b""
        while len(data) < size:
            try:
                part, ancillary, flags, _ = await self._socket.recvmsg(
                    size - len(data), _ANCILLARY, socket.MSG_CMSG_CLOEXEC | _DONT_WAIT
                )
            except OSError as error:
                raise self._gone(error) from error
            except trio.Cancelled:
                if data:
                    self.close()
                raise
            fds.add(ancillary)
            if len(fds) > MAX_FDS:
                raise PeerError(f"more than {MAX_FDS} descriptors with one message")
            if flags & socket.MSG_CTRUNC:
                raise PeerError(f"descriptors got lost: more than {MAX_FDS}, or no room for them")
            if not part:
                if may_end and not data:
                    return None
                raise PeerError(f"the connection ended after {len(data)} bytes of {size}")
            data += part
        return data

    def _gone(self, error: OSError) -> Exception:
        if self._closed:
            return trio.ClosedResourceError("the channel was closed")
        if error.errno in _GONE:
            return trio.BrokenResourceError("the peer is gone")
        return error


def _parse(row: Message | None, header: Header, data: bytes, fds: Descriptors) -> Payload:
    if row is None:
        fds.close()
        return EMPTY
    if Flags.REPLY not in header.flags:
        return row.parse(data, len(fds))
    if row.reply is Reply.OWN:
        return row.parse_reply(data, len(fds))
    if fds:
        raise PeerError(f"the acknowledgement of {row.name} came with {len(fds)} descriptors")
    return Number.from_bytes(data)


def _judge(row: Message, incoming: Incoming) -> Incoming:
    """Return an answer that is no refusal."""
    payload = incoming.payload
    if row.reply is Reply.ACK and isinstance(payload, Number) and payload.value:
        raise NegotiationError(f"the peer refused {row.name}, with {payload.value:#x}")
    if row.refusable and isinstance(payload, Empty):
        incoming.close()
        raise NegotiationError(f"the peer refused {row.name}")
    return incoming
