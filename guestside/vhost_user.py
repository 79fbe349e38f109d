"""The frontend of vhost-user: our drivers over anyone's backend.

async with connect_vhost_user("/run/disk.sock") as link, BlockDriver(link) as disk:
    await disk.read(0, 512)
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from paravirt.doorbells import DoorbellMaker, EventFd
from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import Dialect, ProtocolFeature

from ._backend_link import VhostUserLink as VhostUserLink
from ._keeper import Keeper
from ._session import connect
from ._setup import Bells

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator

    from ._session import Session

WANTED = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
    | ProtocolFeature.DEVICE_STATE
    | ProtocolFeature.GPA_ADDRESSES  # all the same to us: our addresses are the device's own
)
"""The protocol features that this frontend uses where it can, if the dialect has a bit for them."""
MEMORY_SIZE = 64 << 20
"""Bytes of shared memory; pages that are never touched cost nothing."""
QUEUE_SIZE = 256


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
    reconnect: bool = False,
) -> AsyncGenerator[VhostUserLink]:
    """Connect to a backend that listens at `path`, agree on the protocol, and yield a link.

    vhost-user does not say what type of device this is and how long its queues may be, so
    `device_id` (0: any driver may try) and `queue_size` are the caller's. `queues` limits what is
    used of the queues that the backend has. A call doorbell without a descriptor is polled.
    `protocol_features` masks what is agreed on, for tests of a backend; `dialect` says by which
    bits it knows the features that peers number differently, none without it.

    With `reconnect` the link outlives its backend: when that goes away, killed or started anew, the
    path is connected to again and again, for ever and at most a second apart, and the next one
    takes up what was in flight. What a driver asked is then answered once, if later; the device may
    carry it out twice. A reset does not wait for the next backend. One that is no longer the same
    device ends the link, as going away does without `reconnect`.

    Raises `OSError` if nobody listens there, `PeerError` for a backend that breaks the protocol,
    `NegotiationError` for one that keeps no inflight descriptors if `reconnect` needs them, and
    `trio.BrokenResourceError` for one that goes away. Leaving closes the connection and the shared
    memory. Cancelled, it has left nothing behind.
    """
    dialect = dialect or Dialect()
    session = await _agree(path, dialect, protocol_features & WANTED, reconnect=reconnect)
    try:
        count = 1 if session.queues is None else session.queues
        bells = Bells(count if queues is None else min(count, queues), doorbell, call_doorbell)
        try:
            link = VhostUserLink(
                session, bells, device_id=device_id, queue_size=queue_size, memory_size=memory_size
            )
        except BaseException:
            bells.close()
            raise
        link.lasting = reconnect
        again = partial(connect, path, dialect, session.agreed) if reconnect else None
        try:
            async with Keeper(link, again).keeping():
                yield link
        finally:
            link.close()
    finally:
        session.channel.close()


async def _agree(
    path: str | os.PathLike[str], dialect: Dialect, wanted: ProtocolFeature, *, reconnect: bool
) -> Session:
    """Connect to the first backend."""
    needed = ProtocolFeature.INFLIGHT_SHMFD if reconnect else ProtocolFeature(0)
    session = await connect(path, dialect, wanted | needed)
    if needed not in session.agreed:
        session.channel.close()
        raise NegotiationError("no backend could take over from this one: it lacks INFLIGHT_SHMFD")
    return session
