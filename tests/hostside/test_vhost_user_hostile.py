"""A frontend that lies: the connection ends or the request is refused, and nothing is left over."""

from __future__ import annotations

import array
import os
import random
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import EventFd
from paravirt.hostside.vhost_user import serve_vhost_user
from paravirt.transport import Memory, NegotiationError, PeerError, Region
from paravirt.transport.vhost_user import (
    REQUESTS,
    Flags,
    Header,
    ProtocolFeature,
    Request,
    payloads as p,
)
from tests.hostside.frontend import (
    BASE,
    DATA,
    SIZE,
    Frontend,
    Queue,
    attached,
    open_files,
    pair,
)
from tests.hostside.lies import LIES, Lie
from tests.hostside.serving import Echo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

ACK = ProtocolFeature.REPLY_ACK
SLOTS = ACK | ProtocolFeature.CONFIGURE_MEM_SLOTS
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, PeerError)


class Echoes(Echo):
    queue_sizes = (16, 16)


async def closed(frontend: Frontend) -> bool:
    """Say whether the backend has closed the connection, waiting for what it does."""
    try:
        return await frontend.channel.receive() is None
    except GONE:
        return True


@pytest.fixture
async def neighbour() -> AsyncGenerator[None]:
    """Have another frontend use another device in this process, which nothing may disturb."""
    async with attached(Echo()) as frontend:
        await frontend.bring_up()
        assert await frontend.echo(b"before") == b"before"
        yield
        assert await frontend.echo(b"after") == b"after"


async def still_serves(device: Echo) -> None:
    """Check that the device works for the next frontend."""
    async with attached(device) as frontend:
        await frontend.bring_up()
        assert await frontend.echo(b"next") == b"next"


def wire(request: int, payload: bytes, flags: int = Flags.VERSION) -> bytes:
    return Header(request, Flags(flags), len(payload)).to_bytes() + payload


def least_payload(request: int) -> bytes:
    """Return as few bytes as make a message of this kind."""
    return bytes(REQUESTS[request].payload.sizes().start)


async def send(sock: trio.socket.SocketType, data: bytes, fds: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    await sock.sendmsg([data], rights)


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("request_id", sorted(REQUESTS), ids=lambda one: REQUESTS[one].name)
async def test_message_cut_short_anywhere_leaves_nothing_behind(
    request_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    device = Echo()
    data = wire(request_id, least_payload(request_id))
    with closing(EventFd()) as bell:
        before = open_files()
        for end in range(1, len(data)):
            stream, sock = pair()
            with sock:
                await send(sock, data[:end], [bell.fileno()])
            await serve_vhost_user(device, stream)

        assert open_files() == before
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (len(data) - 1)
    await still_serves(device)


WIRES = {
    "unknown": wire(99, b""),
    "unknown with payload": wire(99, bytes(64)),
    "unknown that wants an answer": wire(99, b"", Flags.VERSION | Flags.NEED_REPLY),
    "number 0": wire(0, b""),
    "version 2": wire(1, b"", 2),
    "reserved flags": wire(1, b"", 1 | 1 << 7),
    "a reply": wire(1, b"", Flags.VERSION | Flags.REPLY),
    "4 GiB": Header(Request.SET_FEATURES, Flags.VERSION, 0xFFFFFFFF).to_bytes(),
    "one byte too many": wire(Request.SET_FEATURES, bytes(9)),
    "nine regions": wire(Request.SET_MEM_TABLE, b"\x09" + bytes(7 + 9 * 32)),
    "more regions than bytes": wire(Request.SET_MEM_TABLE, b"\x02" + bytes(7 + 32)),
    "protocol features that were not offered": wire(
        Request.SET_PROTOCOL_FEATURES, (1 << 40).to_bytes(8, "little")
    ),
    "not agreed on": wire(Request.GET_STATUS, b""),
    "not supported": wire(Request.SET_INFLIGHT_FD, bytes(24)),
}


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("data", WIRES.values(), ids=WIRES.keys())
@pytest.mark.parametrize("count", [0, 1, 8])
async def test_bytes_that_are_no_request_close_the_connection(
    data: bytes, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    device = Echo()
    with closing(EventFd()) as bell:
        before = open_files()
        stream, sock = pair()
        with sock:
            await send(sock, data, [bell.fileno()] * count)
            await serve_vhost_user(device, stream)

        assert open_files() == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await still_serves(device)


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("acknowledged", [True, False], ids=["asked", "not asked"])
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_lie_is_refused_or_ends_the_connection(
    lie: Lie, acknowledged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    device = Echoes()
    before = open_files()
    async with attached(device) as frontend:
        await frontend.agree(int(SLOTS))
        frontend.channel.acknowledges = acknowledged
        try:
            await lie(frontend)
        except NegotiationError:
            assert acknowledged
        except GONE:  # in the middle of the lie
            assert await closed(frontend)
        else:
            assert await closed(frontend)

    assert open_files() == before
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1, warnings
    await still_serves(device)


def requests_in(order: list[int]) -> Iterator[bytes]:
    for request in order:
        yield wire(request, least_payload(request), Flags.VERSION | Flags.NEED_REPLY)


@pytest.mark.usefixtures("neighbour")
async def test_every_message_twice_in_any_order_is_survived(seed: int) -> None:
    device = Echo()
    before = open_files()
    rng = random.Random(seed)
    for _ in range(20):
        order = rng.choices(sorted(REQUESTS), k=30)
        stream, sock = pair()
        with sock:
            for data in requests_in(order):
                await sock.send(data)
            sock.shutdown(socket.SHUT_WR)
            await serve_vhost_user(device, stream)

    assert open_files() == before
    await still_serves(device)


async def test_refusals_have_an_end() -> None:
    async with attached(Echo()) as frontend:
        await frontend.agree(int(ACK))
        for _ in range(64):
            with pytest.raises(NegotiationError):
                await frontend.ask(Request.SET_VRING_NUM, p.VringState(0, 3))

        with pytest.raises(GONE):
            await frontend.ask(Request.SET_VRING_NUM, p.VringState(0, 3))


def unsealed(frontend: Frontend) -> int:
    """Give the frontend memory that it can take away; returns the file."""
    fd = os.memfd_create("unsealed")
    os.ftruncate(fd, SIZE)
    frontend.memory.close()
    frontend.region = Region.foreign(os.dup(fd), addr=BASE, size=SIZE)
    frontend.memory = Memory([frontend.region])
    for queue in frontend.queues:
        queue.close()
    frontend.queues = [Queue(frontend.memory, index, 16) for index in range(len(frontend.queues))]
    return fd


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("left", [SIZE // 2, 0], ids=["buffers", "rings"])
async def test_memory_that_is_taken_away_ends_only_the_connection(
    left: int, caplog: pytest.LogCaptureFixture
) -> None:
    device = Echo()
    before = open_files()
    async with attached(device) as frontend:
        fd = unsealed(frontend)
        await frontend.bring_up()
        assert await frontend.echo(b"hello") == b"hello"
        if left:
            frontend.offer(b"gone", at=DATA + 4096)
        os.ftruncate(fd, left)
        os.close(fd)
        frontend.queues[0].kick.ring()

        assert await closed(frontend)

    assert open_files() == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await still_serves(device)


async def test_bad_chain_is_signalled_and_the_queue_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its head goes back with length 0; there is nobody else to tell."""
    async with attached(Echo()) as frontend:
        await frontend.bring_up()
        queue = frontend.queues[0]
        assert queue.ring.add([(1 << 50, 1)]) is not None
        queue.ring.publish()
        queue.kick.ring()

        await queue.error.wait()

        assert queue.ring.reap()
        assert await frontend.echo(b"good") == b"good"
    assert "bad chain" in caplog.text


async def test_broken_ring_is_signalled_and_other_queues_go_on() -> None:
    async with attached(Echoes(), queues=2) as frontend:
        await frontend.bring_up()
        broken = frontend.queues[0]
        frontend.memory.write(broken.geometry.driver + 2, (1000).to_bytes(2, "little"))
        broken.kick.ring()

        await broken.error.wait()

        assert await frontend.echo(b"other", 1) == b"other"
