"""A scripted vhost-user frontend: says what it is told, in any order, honest or not."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import EventFd, wait_for_work
from paravirt.hostside.vhost_user import serve_vhost_user
from paravirt.transport import DriverRing, Feature, Memory, Region, RingGeometry, Status
from paravirt.transport.vhost_user import (
    BACKEND_REQUESTS,
    PROTOCOL_FEATURES,
    REQUESTS,
    Channel,
    ProtocolFeature,
    Request,
    payloads as p,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from paravirt.hostside import Device
    from paravirt.hostside.vhost_user import Terms

BASE = 1 << 20
SIZE = 1 << 20
USER = 0x7F00_0000_0000
"""What the frontend's process adds to the guest's addresses."""
DATA = BASE + SIZE // 2
RING = Feature.VERSION_1 | Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX
FEATURES = int(RING) | PROTOCOL_FEATURES
UP = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


class Queue:
    """One queue, its doorbells, and where it lies."""

    def __init__(self, memory: Memory, index: int, size: int) -> None:
        self.index = index
        self.geometry = RingGeometry.contiguous(size, BASE + index * 0x4000, int(RING))
        self.ring = DriverRing(memory, self.geometry)
        self.kick, self.call, self.error = EventFd(), EventFd(), EventFd()

    @property
    def address(self) -> p.VringAddress:
        """What SET_VRING_ADDR says of it."""
        ring = self.geometry
        return p.VringAddress(
            self.index, 0, ring.desc + USER, ring.device + USER, ring.driver + USER
        )

    def close(self) -> None:
        for bell in self.kick, self.call, self.error:
            bell.close()


class Frontend:
    """A frontend over one connection, with a megabyte of memory."""

    def __init__(self, sock: trio.socket.SocketType, *, queues: int = 1, size: int = 16) -> None:
        self.channel = Channel(sock, REQUESTS)
        self.agreed = False
        self.region = Region.create(SIZE, addr=BASE)
        self.memory = Memory([self.region])
        self.queues = [Queue(self.memory, index, size) for index in range(queues)]

    def reconnect(self, sock: trio.socket.SocketType) -> None:
        """Go on with another backend; memory, queues and doorbells stay."""
        self.channel.close()
        self.channel = Channel(sock, REQUESTS)
        self.agreed = False

    async def ask(
        self, request: int, payload: p.Payload = p.EMPTY, fds: Sequence[int] = ()
    ) -> p.Payload:
        """Send a request and return the answer; raises `NegotiationError` if it is refused."""
        with await self.channel.request(request, payload, fds) as answer:
            return answer.payload

    async def number(self, request: int) -> int:
        """Ask for a number."""
        answer = await self.ask(request)
        assert isinstance(answer, p.Number)
        return answer.value

    async def agree(self, protocol: int) -> None:
        """Agree on protocol features."""
        await self.ask(Request.SET_PROTOCOL_FEATURES, p.Number(protocol))
        self.agreed = True
        self.channel.acknowledges = bool(protocol & ProtocolFeature.REPLY_ACK)

    @property
    def row(self) -> p.MemoryRegion:
        """The one region."""
        return p.MemoryRegion(BASE, SIZE, BASE + USER, 0)

    async def share(self, fd: int | None = None) -> None:
        """Share all memory by SET_MEM_TABLE."""
        fds = [self.region.fd if fd is None else fd]
        await self.ask(Request.SET_MEM_TABLE, p.MemoryTable((self.row,)), fds)

    async def bell(self, request: Request, bell: EventFd, queue: int = 0) -> None:
        """Hand over a doorbell."""
        await self.ask(request, p.VringFile(queue), [bell.fileno()])

    async def bells(self, queue: Queue) -> None:
        """Hand over call and error."""
        await self.bell(Request.SET_VRING_CALL, queue.call, queue.index)
        await self.bell(Request.SET_VRING_ERR, queue.error, queue.index)

    async def lay_out(self, queue: Queue, base: int = 0) -> None:
        """Say size, base and addresses."""
        size = p.VringState(queue.index, queue.geometry.size)
        await self.ask(Request.SET_VRING_NUM, size)
        await self.ask(Request.SET_VRING_BASE, p.VringState(queue.index, base))
        await self.ask(Request.SET_VRING_ADDR, queue.address)

    async def enable(self, queue: Queue, on: bool = True) -> None:
        """Enable a queue, or disable it."""
        await self.ask(Request.SET_VRING_ENABLE, p.VringState(queue.index, int(on)))

    async def base(self, queue: int = 0) -> int:
        """Stop a queue; returns the next available index."""
        answer = await self.ask(Request.GET_VRING_BASE, p.VringState(queue, 0))
        assert isinstance(answer, p.VringState)
        return answer.value

    async def introduce(self, features: int = FEATURES) -> None:
        """Do what comes before the queues."""
        await self.ask(Request.SET_OWNER)
        await self.ask(Request.SET_FEATURES, p.Number(features))
        await self.share()

    async def bring_up(
        self, protocol: ProtocolFeature | None = None, features: int = FEATURES
    ) -> None:
        """Do all that a frontend does until queues run, in QEMU's order."""
        if protocol is not None or not self.agreed:
            protocol = ProtocolFeature.REPLY_ACK if protocol is None else protocol
            await self.agree(int(protocol))
        await self.introduce(features)
        for queue in self.queues:
            await self.bells(queue)
            await self.lay_out(queue)
            await self.bell(Request.SET_VRING_KICK, queue.kick, queue.index)
            await self.enable(queue)
        if protocol is not None and protocol & ProtocolFeature.STATUS:
            await self.ask(Request.SET_STATUS, p.Number(UP))

    def offer(self, data: bytes, queue: int = 0, at: int = DATA) -> None:
        """Publish a request with room for as long a reply behind it, and kick."""
        self.memory.write(at, data)
        ring = self.queues[queue].ring
        assert ring.add([(at, len(data))], [(at + len(data), len(data))]) is not None
        ring.publish()
        self.queues[queue].kick.ring()

    async def reply(self, size: int, queue: int = 0, at: int = DATA) -> bytes:
        """Wait until a request comes back; returns its reply."""
        while not self.queues[queue].ring.reap():
            await wait_for_work(self.queues[queue].call, self.queues[queue].ring)
        return self.memory.read(at + size, size)

    async def echo(self, data: bytes, queue: int = 0, at: int = DATA) -> bytes:
        """Send a request and wait for its reply."""
        self.offer(data, queue, at)
        return await self.reply(len(data), queue, at)

    def close(self) -> None:
        """Close all of it; idempotent."""
        self.channel.close()
        for queue in self.queues:
            queue.close()
        self.memory.close()


def pair() -> tuple[trio.SocketStream, trio.socket.SocketType]:
    """Return the two ends of a connection: the backend's, the frontend's."""
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return trio.SocketStream(ours), theirs


@asynccontextmanager
async def attached(
    device: Device, *, queues: int = 1, size: int = 16, terms: Terms | None = None
) -> AsyncGenerator[Frontend]:
    """Serve a device to a frontend; the backend has returned when this is left."""
    stream, sock = pair()
    frontend = Frontend(sock, queues=queues, size=size)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_vhost_user, device, stream, terms=terms))
            yield frontend
            frontend.close()
    finally:
        frontend.close()


async def back_channel(frontend: Frontend) -> Channel:
    """Give the backend a back channel; returns our end."""
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        await frontend.ask(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
    return Channel(ours, BACKEND_REQUESTS)


async def hear(sock: trio.socket.SocketType) -> None:
    """Read answers, and throw them away, until the backend closes."""
    with suppress(ConnectionResetError):  # it closed with messages of ours that it had not read
        while await sock.recv(4096):
            pass


def open_files() -> int:
    """Count this process's descriptors."""
    return len(os.listdir("/proc/self/fd"))
