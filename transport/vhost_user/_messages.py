"""What is common to all vhost-user messages: the header, and what a row of the table says."""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from .._errors import PeerError
from ._features import ProtocolFeature
from .payloads import MAX_PAYLOAD, Empty, Payload, pack

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("HEADER_SIZE", "Flags", "Header", "Message", "Reply", "When")

_HEADER = struct.Struct("=III")
HEADER_SIZE = _HEADER.size


class Flags(enum.IntFlag):
    """The flags of a header. Bits 0 and 1 are the version, which is 1."""

    VERSION = 1
    REPLY = 1 << 2
    NEED_REPLY = 1 << 3


class Header(NamedTuple):
    """What each message begins with."""

    request: int
    flags: Flags
    size: int

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        return pack(_HEADER, self.request, int(self.flags), self.size)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the wire form. Raises `PeerError` for another version, a flag or a size unknown."""
        request, flags, size = _HEADER.unpack(data)
        if flags & 3 != Flags.VERSION:
            raise PeerError(f"request {request}: version {flags & 3} of vhost-user, not 1")
        if flags & ~0xF:
            raise PeerError(f"request {request}: flags {flags:#x} have bits that are reserved")
        if size > MAX_PAYLOAD:
            raise PeerError(f"request {request}: {size} bytes, the most is {MAX_PAYLOAD}")
        return cls(request, Flags(flags), size)


class Reply(enum.Enum):
    """How a message is answered."""

    ACK = "with a number, 0 for success, if REPLY_ACK was agreed on and the header asks for it"
    OWN = "always, with a payload of its own"


class When(enum.Enum):
    """When a message is legal, once what it needs was agreed on."""

    ANY = "at any time"
    RING_STOPPED = "while the queue that it names is stopped"
    LOG_ONLY = "while the queue that it names is stopped; later, to change its log"
    DEVICE_STOPPED = "while all queues are stopped"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    id: int
    name: str
    text: str
    """What it is for, in a sentence."""
    payload: type[Payload] = Empty
    fds: tuple[int, int] = (0, 0)
    """Fewest and most descriptors; the payload says how many where that depends on it."""
    reply: Reply = Reply.ACK
    answer: type[Payload] = Empty
    """The payload of its own reply."""
    answer_fds: tuple[int, int] = (0, 0)
    refusable: bool = False
    """The peer may refuse it by a reply without payload."""
    needs: ProtocolFeature = ProtocolFeature(0)
    """What must have been agreed on; of several, one is enough."""
    when: When = When.ANY

    def check_size(self, size: int, *, reply: bool = False) -> None:
        """Raise `PeerError` if the header's size cannot be, before the payload is read."""
        if reply and self.refusable and not size:
            return
        try:
            (self.answer if reply else self.payload).check_size(size)
        except PeerError as error:
            raise PeerError(f"{self.title(reply)}: {error}") from None

    def parse(self, data: bytes, fds: int) -> Payload:
        """Read the payload of a request that came with so many descriptors; raises `PeerError`."""
        return self._parse(data, fds, self.payload, self.fds, reply=False)

    def parse_reply(self, data: bytes, fds: int) -> Payload:
        """Read the payload of its own reply; `Empty` if that refuses. Raises `PeerError`."""
        kind = Empty if self.refusable and not data else self.answer
        return self._parse(data, fds, kind, self.answer_fds, reply=True)

    def _parse(
        self, data: bytes, fds: int, kind: type[Payload], allowed: tuple[int, int], *, reply: bool
    ) -> Payload:
        try:
            payload = kind.from_bytes(data)
        except PeerError as error:
            raise PeerError(f"{self.title(reply)}: {error}") from None
        least, most = allowed if payload.fds is None else (payload.fds, payload.fds)
        if not least <= fds <= most:
            wanted = f"{least}" if least == most else f"{least} or {most}"
            raise PeerError(f"{self.title(reply)}: {fds} descriptors, not {wanted}")
        return payload

    def title(self, reply: bool = False) -> str:
        """Name it, for messages to a person."""
        return f"the reply to {self.name}" if reply else self.name


def table(*rows: Message) -> Mapping[int, Message]:
    """Return rows by id."""
    return {row.id: row for row in rows}
