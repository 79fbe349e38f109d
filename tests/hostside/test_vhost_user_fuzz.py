"""Conversations that hypothesis makes up from the table of messages, with descriptors of all kinds.

Whatever is said: no exception leaves the backend, nothing stays open, and another frontend of the
same process notices nothing.
"""

from __future__ import annotations

import array
import itertools
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio
from hypothesis import given, strategies as st

from paravirt.hostside import NullNet
from paravirt.hostside.vhost_user import Terms, serve_vhost_user
from paravirt.transport.vhost_user import (
    REQUESTS,
    Dialect,
    Flags,
    Header,
    Message,
    ProtocolFeature,
    Request,
)
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
    from collections.abc import Generator

Said: TypeAlias = tuple[int, bytes, Sequence[str], int]
"""A request's number, its payload, the kinds of its descriptors, its flags."""

ALL = (
    ProtocolFeature.BACKEND_SEND_FD
    | ProtocolFeature.INBAND_NOTIFICATIONS
    | ProtocolFeature.GET_VRING_BASE_INFLIGHT
    | ProtocolFeature.GPA_ADDRESSES
    | ProtocolFeature.SHMEM
)
TERMS = Terms(also=ALL, dialect=Dialect(get_vring_base_inflight=20, gpa_addresses=21, shmem=22))
NOT_AGREED = ProtocolFeature.STATUS | ProtocolFeature.GPA_ADDRESSES
"""Would keep the queues from running, as they are set up here."""
KINDS = ("memory", "kick", "call", "null", "pipe", "stream", "datagram", "folder", "path")
"""Three that a frontend sends where they belong, and some that it never should."""
NUMBERS = (0, 1, 2, 8, 16, 255, 256, 4096, 32768, 65535, 65536, BASE, SIZE, DATA, BASE + USER, USER)
LARGE = (FEATURES, int(UP), 1 << 32, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1)


class Card(NullNet):
    """A device that all messages are for: it has RARP, MTU and a configuration space."""

    def __init__(self) -> None:
        super().__init__(queue_size=16, pairs=2, mtu=1500)


def words(size: int) -> st.SearchStrategy[bytes]:
    """Return payloads of a size, made of numbers that mean something somewhere."""
    number = st.sampled_from(NUMBERS + LARGE) | st.integers(0, (1 << 64) - 1)
    word = st.tuples(number, st.sampled_from((4, 4, 8)))
    packed = word.map(lambda pair: (pair[0] % (1 << 8 * pair[1])).to_bytes(pair[1], "little"))
    return st.lists(packed, min_size=size // 4, max_size=size // 4 + 1).map(
        lambda parts: b"".join(parts)[:size].ljust(size, b"\0")
    )


def messages(row: Message) -> st.SearchStrategy[Said]:
    """Return messages of one kind, most of them well-formed."""
    sizes = row.payload.sizes()
    size = st.sampled_from((sizes.start, min(sizes.stop - 1, sizes.start + 32)))
    payload = size.flatmap(words) | st.binary(max_size=64)
    count = st.sampled_from((row.fds[0], row.fds[1], 1)).map(lambda most: min(most, 8))
    kinds = count.flatmap(lambda n: st.lists(st.sampled_from(KINDS), min_size=n, max_size=n))
    flags = st.sampled_from((Flags.VERSION | Flags.NEED_REPLY,) * 7 + (Flags.VERSION,))
    return st.tuples(st.just(row.id), payload, kinds, flags.map(int))


talk = st.lists(st.sampled_from(sorted(REQUESTS)).flatmap(lambda one: messages(REQUESTS[one])))


@contextmanager
def descriptors(frontend: Frontend) -> Generator[dict[str, int]]:
    """Give a descriptor of each kind."""
    with ExitStack() as stack:
        ends = [*os.pipe(), os.open("/dev/null", os.O_RDWR), os.open("/", os.O_RDONLY)]
        ends.append(os.open("/dev/null", os.O_PATH))
        for fd in ends:
            stack.callback(os.close, fd)
        stream, datagram = socket.socketpair(), socket.socketpair(type=socket.SOCK_DGRAM)
        for sock in stream + datagram:
            stack.enter_context(sock)
        queue = frontend.queues[0]
        fds = [frontend.region.fd, queue.kick.fileno(), queue.call.fileno(), ends[2], ends[0]]
        fds += [stream[0].fileno(), datagram[0].fileno(), ends[3], ends[4]]
        yield dict(zip(KINDS, fds, strict=True))


async def say(sock: trio.socket.SocketType, said: Sequence[Said], fds: dict[str, int]) -> None:
    """Send messages until all were sent, or the backend has had enough."""
    for request, data, kinds, flags in said:
        header = Header(request, Flags(flags), len(data)).to_bytes()
        rights = array.array("i", [fds[kind] for kind in kinds])
        try:
            await sock.sendmsg(
                [header + data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if kinds else []
            )
        except OSError:
            return
    sock.shutdown(socket.SHUT_WR)


async def hold(card: Card, said: Sequence[Said], agreed: int, *, up: bool) -> None:
    """Have a whole conversation with a backend, which may come up before it."""
    stream, sock = pair()
    frontend = Frontend(sock)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_vhost_user, card, stream, terms=TERMS))
        await frontend.agree(agreed)
        if up:
            await frontend.bring_up()
        nursery.start_soon(hear, sock)
        with descriptors(frontend) as fds:
            await say(sock, said, fds)
    frontend.close()


@given(talk, st.booleans(), st.booleans())
async def test_made_up_conversation_leaves_nothing_behind(
    said: list[Said], up: bool, everything: bool
) -> None:
    card = Card()
    async with attached(Echo()) as neighbour:
        await neighbour.bring_up()
        before = open_files()
        async with attached(card, terms=TERMS) as asking:
            offered = await asking.number(Request.GET_PROTOCOL_FEATURES)
        await hold(card, said, offered & ~int(NOT_AGREED) if everything else 8, up=up)

        assert open_files() == before
        assert card.server is None
        assert await neighbour.echo(b"still") == b"still"


CARRIERS = [row for row in REQUESTS.values() if row.fds[1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", CARRIERS, ids=lambda row: row.name)
async def test_descriptor_of_any_kind_is_taken_or_refused(row: Message, kind: str) -> None:
    """Whatever comes with it is closed in the end, and the device serves the next frontend."""
    card, size = Card(), row.payload.sizes().start + (32 if row.id == Request.SET_MEM_TABLE else 0)
    data = bytes([1, 0]) if row.id == Request.SET_MEM_TABLE else b""
    before = open_files()
    for flags, count in itertools.product((1, 9), (0, 1, 2, 8)):
        said: Said = (row.id, data.ljust(size, b"\0"), [kind] * count, flags)
        await hold(card, [said], int(ProtocolFeature.REPLY_ACK), up=False)

    assert open_files() == before
    assert card.server is None
