"""A frontend that lies: the connection ends or the request is refused, and nothing is left over."""

from __future__ import annotations

import array
import os
import random
import socket
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias

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
    FEATURES,
    SIZE,
    USER,
    Frontend,
    Queue,
    attached,
    open_files,
    pair,
)
from tests.hostside.serving import Echo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    Script: TypeAlias = Callable[[Frontend], Awaitable[object]]

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


async def more(frontend: Frontend, *rows: p.MemoryRegion, fd: int | None = None) -> None:
    fds = [frontend.region.fd if fd is None else fd] * len(rows)
    await frontend.ask(Request.SET_MEM_TABLE, p.MemoryTable(rows), fds)


async def address(frontend: Frontend, **changes: int) -> None:
    """Lay the queue out with some addresses changed, and start it."""
    queue = frontend.queues[0]
    fields = {name: getattr(queue.address, name) for name in queue.address.__struct_fields__}
    await frontend.introduce()
    await frontend.ask(Request.SET_VRING_NUM, p.VringState(0, 16))
    await frontend.ask(Request.SET_VRING_ADDR, p.VringAddress(**{**fields, **changes}))
    await frontend.bell(Request.SET_VRING_KICK, queue.kick)
    await frontend.enable(queue)


async def over_another(frontend: Frontend) -> None:
    """Put the second queue where the first one is."""
    await frontend.bring_up()
    place = frontend.queues[0].address
    await frontend.ask(Request.SET_VRING_NUM, p.VringState(1, 16))
    second = p.VringAddress(1, 0, place.desc, place.device, place.driver)
    await frontend.ask(Request.SET_VRING_ADDR, second)
    await frontend.bell(Request.SET_VRING_KICK, frontend.queues[0].kick, 1)
    await frontend.ask(Request.SET_VRING_ENABLE, p.VringState(1, 1))


def short_file() -> int:
    fd = os.memfd_create("short")
    os.ftruncate(fd, 4096)
    return fd


async def with_short_file(frontend: Frontend) -> None:
    fd = short_file()
    try:
        await frontend.share(fd)
    finally:
        os.close(fd)


async def with_large_file(frontend: Frontend) -> None:
    fd = os.memfd_create("large")
    os.ftruncate(fd, 1 << 46)
    try:
        await frontend.ask(Request.ADD_MEM_REG, region(size=1 << 46), [fd])
    finally:
        os.close(fd)


async def with_another_file(frontend: Frontend) -> None:
    await frontend.introduce()
    fd = os.memfd_create("another")
    os.ftruncate(fd, SIZE)
    try:
        await frontend.ask(Request.ADD_MEM_REG, frontend.row, [fd])
    finally:
        os.close(fd)


async def with_wrong_fd(frontend: Frontend, request: Request) -> None:
    await frontend.ask(request, p.VringFile(0), [frontend.region.fd])


async def running(frontend: Frontend, request: Request, payload: p.Payload) -> None:
    """Use a setter on a running queue."""
    await frontend.bring_up()
    await frontend.ask(request, payload)


def region(**changes: int) -> p.MemoryRegion:
    fields = {"addr": BASE, "size": SIZE, "user": BASE + USER, "offset": 0}
    return p.MemoryRegion(**{**fields, **changes})


A, B = region(), region(addr=1 << 40, user=1 << 40)
MOVED = p.VringAddress(0, 0, DATA + USER, DATA + USER + 0x2000, DATA + USER + 0x1000)
LIES: dict[str, Script] = {
    "size 0": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(0, 0)),
    "size 65535": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(0, 65535)),
    "size 65536": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(0, 65536)),
    "size 24": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(0, 24)),
    "base beyond 16 bits": lambda f: f.ask(Request.SET_VRING_BASE, p.VringState(0, 1 << 16)),
    "no such queue": lambda f: f.ask(Request.SET_VRING_NUM, p.VringState(2, 16)),
    "no such queue to stop": lambda f: f.base(77),
    "no such queue's kick": lambda f: f.bell(Request.SET_VRING_KICK, f.queues[0].kick, 255),
    "enabled by 2": lambda f: f.ask(Request.SET_VRING_ENABLE, p.VringState(0, 2)),
    "kick is no eventfd": lambda f: with_wrong_fd(f, Request.SET_VRING_KICK),
    "call is no eventfd": lambda f: with_wrong_fd(f, Request.SET_VRING_CALL),
    "error is no eventfd": lambda f: with_wrong_fd(f, Request.SET_VRING_ERR),
    "regions overlap for the guest": lambda f: more(f, A, region(addr=BASE + 4096, user=0)),
    "regions overlap for the frontend": lambda f: more(f, A, region(addr=0, user=USER + 1)),
    "the same region twice": lambda f: more(f, A, A),
    "region of size 0": lambda f: more(f, region(size=0)),
    "region overflows the guest": lambda f: more(f, region(addr=(1 << 64) - 4096)),
    "region overflows the frontend": lambda f: more(f, region(user=(1 << 64) - 4096)),
    "region overflows the file": lambda f: more(f, region(offset=(1 << 64) - 4096)),
    "region beyond the file": lambda f: more(f, region(offset=4096)),
    "short file": with_short_file,
    "memory is an eventfd": lambda f: f.share(f.queues[0].kick.fileno()),
    "more memory than there are addresses": with_large_file,
    "another file for the same region": with_another_file,
    "unknown region removed": lambda f: f.ask(Request.REM_MEM_REG, B),
    "table outside of memory": lambda f: address(f, desc=1 << 50),
    "table ends outside": lambda f: address(f, desc=BASE + USER + SIZE - 16),
    "table at the last address": lambda f: address(f, desc=(1 << 64) - 16),
    "driver ring outside": lambda f: address(f, driver=USER),
    "device ring outside": lambda f: address(f, device=0),
    "table misaligned": lambda f: address(f, desc=DATA + USER + 8),
    "driver ring misaligned": lambda f: address(f, driver=DATA + USER + 1),
    "device ring misaligned": lambda f: address(f, device=DATA + USER + 2),
    "parts overlap": lambda f: address(f, device=BASE + USER),
    "queue over another": over_another,
    "size while running": lambda f: running(f, Request.SET_VRING_NUM, p.VringState(0, 8)),
    "base while running": lambda f: running(f, Request.SET_VRING_BASE, p.VringState(0, 8)),
    "addresses while running": lambda f: running(f, Request.SET_VRING_ADDR, MOVED),
    "features while running": lambda f: running(f, Request.SET_FEATURES, p.Number(1 << 32)),
    "kicked in band": lambda f: running(f, Request.VRING_KICK, p.VringState(0, 0)),
    "a legacy driver": lambda f: f.bring_up(features=FEATURES & ~(1 << 32)),
}


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("acknowledged", [True, False], ids=["asked", "not asked"])
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_lie_is_refused_or_ends_the_connection(
    lie: Script, acknowledged: bool, caplog: pytest.LogCaptureFixture
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
        except GONE:
            pass
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
async def test_memory_that_is_taken_away_ends_only_the_connection(left: int) -> None:
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
