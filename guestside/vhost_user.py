"""The frontend of vhost-user: our drivers over anyone's backend.

async with connect_vhost_user("/run/disk.sock") as link, BlockDriver(link) as disk:
    await disk.read(0, 512)
"""

from __future__ import annotations

import select
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import Doorbell, DoorbellMaker, EventFd
from paravirt.transport import PeerError, Status
from paravirt.transport.vhost_user import (
    BACKEND_REQUESTS,
    BackendRequest,
    Channel,
    Dialect,
    ProtocolFeature,
    Request,
)

from ._backend_link import Bells, VhostUserLink as VhostUserLink
from ._session import Session

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator

WANTED = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
)
"""The protocol features that this frontend uses where it can."""
MEMORY_SIZE = 64 << 20
"""Bytes of shared memory; pages that are never touched cost nothing."""
QUEUE_SIZE = 256
REFUSED = 1  # the acknowledgement of what we do not do


@asynccontextmanager
async def connect_vhost_user(
    path: str | os.PathLike[str],
    *,
    device_id: int = 0,
    queues: int | None = None,
    queue_size: int = QUEUE_SIZE,
    memory_size: int = MEMORY_SIZE,
    doorbell: DoorbellMaker = EventFd,
    call_doorbell: DoorbellMaker = EventFd,
    protocol_features: ProtocolFeature = WANTED,
    dialect: Dialect | None = None,
) -> AsyncGenerator[VhostUserLink]:
    """Connect to a backend that listens at `path`, agree on the protocol, and yield a link.

    vhost-user does not say what type of device this is and how long its queues may be, so
    `device_id` (0: any driver may try) and `queue_size` are the caller's. `queues` limits what is
    used of the queues that the backend has. A call doorbell without a descriptor is polled.
    `protocol_features` masks what is agreed on, for tests of a backend.

    Raises `OSError` if nobody listens there, `PeerError` for a backend that breaks the protocol
    and `trio.BrokenResourceError` for one that goes away. Leaving closes the connection and the
    shared memory. Cancelled, it has left nothing behind.
    """
    session = Session(await _connect(path), dialect or Dialect())
    try:
        await session.agree(protocol_features & WANTED)
        count = 1 if session.queues is None else session.queues
        bells = Bells(count if queues is None else min(count, queues), doorbell, call_doorbell)
        try:
            link = VhostUserLink(
                session,
                bells,
                device_id=device_id,
                queue_size=queue_size,
                memory_size=memory_size,
            )
        except BaseException:
            bells.close()
            raise
        try:
            async with _watched(link):
                yield link
        finally:
            link.close()
    finally:
        session.channel.close()


async def _connect(path: str | os.PathLike[str]) -> trio.socket.SocketType:
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


@asynccontextmanager
async def _watched(link: VhostUserLink) -> AsyncGenerator[None]:
    """Listen to what the backend says of its own accord, and notice when it goes away."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_notice_end, link)
        nursery.start_soon(_notice_broken_queues, link)
        try:
            if ProtocolFeature.BACKEND_REQ in link.session.agreed:
                await _open_back_channel(link, nursery)
            yield
        except BaseException as error:  # noqa: BLE001  (raised below, not as part of a group)
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _notice_end(link: VhostUserLink) -> None:
    """Wait for the end of the connection, without a look at what arrives on it."""
    with select.epoll() as ends:
        ends.register(link.session.channel.fileno(), select.EPOLLRDHUP)
        await trio.lowlevel.wait_readable(ends.fileno())
    link.session.channel.close()
    link.lose()


async def _notice_broken_queues(link: VhostUserLink) -> None:
    while True:
        await link.broke.wait()
        link.lose(reset_helps=True)


async def _open_back_channel(link: VhostUserLink, nursery: trio.Nursery) -> None:
    ours, theirs = trio.socket.socketpair()
    channel = Channel(ours, BACKEND_REQUESTS)
    try:
        with theirs:
            await link.session.ask(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
    except BaseException:
        channel.close()
        raise
    look = EventFd()
    nursery.start_soon(_answer_backend, link, channel, look)
    nursery.start_soon(_watch_status, link, look)


async def _answer_backend(link: VhostUserLink, channel: Channel, look: Doorbell) -> None:
    """Serve the back channel. It never waits for the main one, which may wait for this."""
    try:
        while (incoming := await channel.receive()) is not None:
            with incoming:
                changed = incoming.header.request == BackendRequest.CONFIG_CHANGE_MSG
                if changed:
                    link.generation += 1
                    link.changed.ring()
                    look.ring()
                await channel.acknowledge(incoming, 0 if changed else REFUSED)
    except (PeerError, trio.BrokenResourceError):
        pass  # its own loss; the main channel tells what becomes of the device
    finally:
        channel.close()


async def _watch_status(link: VhostUserLink, look: Doorbell) -> None:
    """After a change notification, see whether the device asks for a reset (2.1.2)."""
    try:
        while True:
            await look.wait()
            if Status.DEVICE_NEEDS_RESET in await link.get_status():
                link.lose(reset_helps=True)
    except (PeerError, trio.BrokenResourceError):
        pass  # `_notice_end` tells
    finally:
        look.close()
