"""Messages made from the table, and both ends of a socket to send them over."""

from __future__ import annotations

import array
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from paravirt.transport.vhost_user import (
    BACKEND_REQUESTS,
    REQUESTS,
    Channel,
    Flags,
    Header,
    Message,
    payloads,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Generator, Sequence

ROWS = [*REQUESTS.values(), *BACKEND_REQUESTS.values()]


def name(row: Message) -> str:
    """Name a row in a test's id."""
    return f"{row.name.lower()}-{'back' if row in BACKEND_REQUESTS.values() else 'front'}"


def table_of(row: Message) -> dict[int, Message]:
    """Return a table with only this row, so that ids of the two directions do not meet."""
    return {row.id: row}


def wire(kind: type[payloads.Payload], rng: random.Random) -> bytes:
    """Return a well-formed payload with random contents."""
    if kind is payloads.MemoryTable:
        return payloads.MemoryTable(
            tuple(payloads.MemoryRegion(*(rng.getrandbits(64) for _ in range(4))) for _ in range(2))
        ).to_bytes()
    if kind is payloads.ConfigAccess:
        return payloads.ConfigAccess(rng.getrandbits(32), 0, rng.randbytes(20)).to_bytes()
    if kind is payloads.Opaque:
        return rng.randbytes(30)
    fixed = rng.randbytes(kind.layout.size)
    return kind.from_bytes(fixed).to_bytes()  # padding as we send it


def fd_count(row: Message, data: bytes) -> int:
    """Return a number of descriptors that is right for a request."""
    wanted = row.payload.from_bytes(data).fds
    return row.fds[1] if wanted is None else wanted


def message(row: Message, data: bytes, *, flags: int = Flags.VERSION) -> bytes:
    """Return header and payload of a request; the flags may be wrong."""
    return (
        row.id.to_bytes(4, "little")
        + flags.to_bytes(4, "little")
        + Header(row.id, Flags(1), len(data)).to_bytes()[8:]
        + data
    )


def open_fds() -> list[str]:
    """Return the descriptors of this process."""
    return sorted(os.listdir("/proc/self/fd"))


class Peer:
    """The other end of a channel, from which anything can be sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def send(self, data: bytes, fds: int = 0) -> None:
        """Send bytes, with so many descriptors."""
        own = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(fds)]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", own))]
        try:
            self.socket.sendmsg([data], rights if own else [])
        finally:
            for fd in own:
                os.close(fd)

    def receive(self) -> bytes:
        """Return what came, up to a page."""
        return self.socket.recv(4096)

    def end(self) -> None:
        """Send nothing more."""
        self.socket.shutdown(socket.SHUT_WR)


@contextmanager
def peer_of(rows: Sequence[Message]) -> Generator[tuple[Peer, Channel]]:
    """Make a channel that answers the rows, and its peer; both are closed at the end."""
    one, other = socket.socketpair()
    channel = Channel(trio.socket.from_stdlib_socket(other), {row.id: row for row in rows})
    try:
        with one:
            yield Peer(one), channel
    finally:
        channel.close()


@contextmanager
def both_ends() -> Generator[tuple[Channel, Channel]]:
    """Make a frontend's and a backend's channel, connected."""
    one, other = socket.socketpair()
    ends = [Channel(trio.socket.from_stdlib_socket(sock), REQUESTS) for sock in (one, other)]
    try:
        yield ends[0], ends[1]
    finally:
        for end in ends:
            end.close()
