"""A frontend that says what could be meant, at random: most of it fits nothing else it said."""

from __future__ import annotations

import array
import socket
from typing import TYPE_CHECKING

import trio

from paravirt.hostside.vhost_user import serve_vhost_user
from paravirt.transport.vhost_user import REQUESTS, Flags, Header, ProtocolFeature, Request
from tests.hostside.frontend import (
    BASE,
    DATA,
    FEATURES,
    SIZE,
    UP,
    USER,
    Frontend,
    attached,
    hear,
    open_files,
    pair,
)
from tests.hostside.serving import Echo

if TYPE_CHECKING:
    import random

    from paravirt.transport.vhost_user import Message

NUMBERS = (0, 1, 2, 8, 16, 255, 256, 257, 4096, 32768, 65535, 65536, BASE, SIZE, DATA, BASE + USER)
LARGE = (FEATURES, int(UP), 1 << 32, (1 << 64) - 4096, (1 << 64) - 1)
AGREED = int(
    ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIGURE_MEM_SLOTS | ProtocolFeature.RESET_DEVICE
)
CONNECTIONS = 30
MESSAGES = 60


class Echoes(Echo):
    queue_sizes = (16, 16)


def some_bytes(rng: random.Random, row: Message) -> bytes:
    """Return a payload of a size that is right, out of numbers that mean something."""
    size = row.payload.layout.size
    if row.id == Request.SET_MEM_TABLE:
        size += 32 * rng.randrange(3)
    data = b""
    while len(data) < size:
        width = rng.choice((4, 8))
        data += (rng.choice(NUMBERS + LARGE) % (1 << 8 * width)).to_bytes(width, "little")
    return data[:size]


def some_message(rng: random.Random, frontend: Frontend) -> tuple[bytes, list[int]]:
    """Return a message of a kind that is known, and descriptors that could belong to it."""
    row = REQUESTS[rng.choice(sorted(REQUESTS))]
    data = some_bytes(rng, row)
    kinds = [frontend.region.fd, frontend.queues[0].kick.fileno(), frontend.queues[0].call.fileno()]
    count = rng.choice((row.fds[0], row.fds[1], rng.randrange(4)))
    flags = Flags.VERSION | Flags.NEED_REPLY  # whatever is refused then leaves the connection open
    return Header(row.id, flags, len(data)).to_bytes() + data, rng.choices(kinds, k=min(8, count))


async def babble(rng: random.Random, frontend: Frontend, sock: trio.socket.SocketType) -> None:
    """Send messages until there were enough, or the backend has had enough."""
    for _ in range(MESSAGES):
        data, fds = some_message(rng, frontend)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            await sock.sendmsg([data], rights)
        except OSError:
            return
        frontend.queues[0].kick.ring()
    sock.shutdown(socket.SHUT_WR)


async def test_random_conversation_leaves_nothing_behind(rng: random.Random) -> None:
    device = Echoes()
    before = open_files()
    for _ in range(CONNECTIONS):
        stream, sock = pair()
        frontend = Frontend(sock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_vhost_user, device, stream)
            if rng.random() < 0.7:
                await frontend.agree(AGREED)
                await frontend.bring_up()
            nursery.start_soon(hear, sock)
            await babble(rng, frontend, sock)
        frontend.close()

    assert open_files() == before
    async with attached(device) as honest:
        await honest.bring_up()
        assert await honest.echo(b"next") == b"next"
