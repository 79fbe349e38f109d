"""What can go wrong, sorted by who is to blame.

Yours: `ValueError`, `trio.ClosedResourceError`, `trio.WouldBlock`. The peer's: `PeerError` and its
kinds. The world's: `OSError`. The C core returns small negative numbers; `check` is the one place
that knows them.
"""

from __future__ import annotations

import enum
import os
from typing import ClassVar, NoReturn, Self

import trio

__all__ = ("AddressError", "Cause", "MemoryGone", "NegotiationError", "PeerError", "RingBroken")


class Cause(enum.IntEnum):
    """The core's error codes (`enum pv_error` in core/wire.h), named after the lie that was told.

    The clause is the section of virtio 1.4 that forbids it, empty where virtio has no say.
    """

    clause: str
    text: str

    def __new__(cls, code: int, clause: str = "", text: str = "") -> Self:
        """Make a member that is its code and carries its clause and sentence.

        The defaults are for type checkers, which take `Cause(code)`, a look-up, for this.
        """
        member = int.__new__(cls, code)
        member._value_ = code
        member.clause = clause
        member.text = text
        return member

    AVAIL_INDEX = 1, "2.7.6.1", "the available index is further ahead than the queue is long"
    HEAD_RANGE = 2, "2.7.6", "the available ring names a descriptor that the table does not have"
    HEAD_IN_FLIGHT = 3, "2.7.13.1", "the available ring offers a chain that is still in use"
    NEXT_RANGE = 4, "2.7.5", "a descriptor's next is not in its table"
    CHAIN_LENGTH = 5, "2.7.5.3.1", "a chain has more descriptors than its table: a loop"
    INDIRECT_UNNEGOTIATED = 6, "2.7.5.3.1", "an indirect table was used without being negotiated"
    INDIRECT_NESTED = 7, "2.7.5.3.1", "an indirect table refers to another table"
    INDIRECT_NEXT = 8, "2.7.5.3.1", "a descriptor is both indirect and continued"
    INDIRECT_LENGTH = 9, "2.7.5.3", "an indirect table is empty or ends inside a descriptor"
    INDIRECT_SIZE = 10, "2.7.5.3.1", "an indirect table is longer than is allowed here"
    ADDRESS = 11, "2.7.5", "an address lies outside the guest's memory"
    TOTAL_LENGTH = 12, "2.7.5.2", "a chain describes 2^32 bytes or more"
    ORDER = 13, "2.7.4.2", "a readable descriptor follows a writable one"
    USED_INDEX = 14, "2.7.8", "the used index is further ahead than there are requests in flight"
    USED_ID = 15, "2.7.8", "the used ring returns a chain that is not in flight"
    GONE = 16, "", "memory was truncated while it was shared"
    BROKEN = 17, "", "the queue broke earlier and waits for a reset"
    FULL = 18, "", "the queue has no free descriptors"
    ARGUMENT = 19, "", "the core was called with an argument that it does not take"
    STALE = 20, "", "the request was completed already, or belongs to a time before a reset"


ERRNO_BASE = len(Cause) + 1
"""Codes above this are errno + ERRNO_BASE; equal to the core's PV_E_COUNT."""


class PeerError(Exception):
    """The peer broke a rule: a lie in a ring or in the negotiation, not a mistake of yours."""

    usual: ClassVar[Cause | None] = None
    """The cause, where the raiser names none."""

    cause: Cause | None
    """The core's name for it; None for what only Python checks."""

    clause: str
    """The section of virtio 1.4 that was broken, or an empty string."""

    def __init__(self, text: str = "", *, cause: Cause | None = None, clause: str = "") -> None:
        self.cause = self.usual if cause is None else cause
        if self.cause is not None:
            text = text or self.cause.text
            clause = clause or self.cause.clause
        self.clause = clause
        super().__init__(text)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} (virtio 1.4, {self.clause})" if self.clause else text


class RingBroken(PeerError):
    """One queue cannot be used until it is reset; the other queues go on."""

    usual = Cause.BROKEN


class MemoryGone(PeerError):
    """The peer truncated memory that it shares with us."""

    usual = Cause.GONE


class NegotiationError(PeerError):
    """A status, feature or queue access broke a rule, and was refused without any effect."""


class AddressError(PeerError):
    """A guest-physical range is not, or not wholly, in the guest's memory."""

    usual = Cause.ADDRESS


_PEER: dict[Cause, type[PeerError]] = {
    Cause.AVAIL_INDEX: RingBroken,
    Cause.HEAD_RANGE: RingBroken,
    Cause.HEAD_IN_FLIGHT: RingBroken,
    Cause.USED_INDEX: RingBroken,
    Cause.USED_ID: RingBroken,
    Cause.BROKEN: RingBroken,
    Cause.ADDRESS: AddressError,
    Cause.GONE: MemoryGone,
}
_YOURS: dict[Cause, type[Exception]] = {
    Cause.FULL: trio.WouldBlock,
    Cause.ARGUMENT: ValueError,
    Cause.STALE: trio.ClosedResourceError,
}


def refuse(clause: str, text: str) -> NoReturn:
    """Raise `NegotiationError` for what the peer asked."""
    raise NegotiationError(text, clause=clause)


def check(rc: int) -> int:
    """Return what the core returned, or raise what it means.

    Raises `PeerError` or one of its kinds for a lie of the peer, `trio.WouldBlock` for a full
    queue, `trio.ClosedResourceError` for a request that is over, `ValueError` for a wrong argument,
    `OSError` for a failed system call, `RuntimeError` for a number that means nothing.
    """
    if rc >= 0:
        return rc
    raise _error(-rc)


def _error(code: int) -> Exception:
    if code > ERRNO_BASE:
        errno = code - ERRNO_BASE
        return OSError(errno, os.strerror(errno))
    if code == ERRNO_BASE:
        return RuntimeError(f"the core returned {-code}, which has no meaning")
    cause = Cause(code)
    if cause in _YOURS:
        return _YOURS[cause](cause.text)
    return _PEER.get(cause, PeerError)(cause=cause)
