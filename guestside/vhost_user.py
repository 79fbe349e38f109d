"""The frontend of vhost-user: our drivers over anyone's backend.

async with connect_vhost_user("/run/disk.sock") as link, BlockDriver(link) as disk:
    await disk.read(0, 512)
"""

from __future__ import annotations

from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from paravirt.doorbells import DoorbellMaker, EventFd
from paravirt.transport.vhost_user import Dialect, ProtocolFeature

from ._backend_link import VhostUserLink as VhostUserLink
from ._keeper import Keeper
from ._session import connect
from ._setup import Bells

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
    in_band: bool = False,
    reconnect: bool = False,
) -> AsyncGenerator[VhostUserLink]:
    """Connect to a backend that listens at `path`, agree on the protocol, and yield a link.

    vhost-user does not say what type of device this is and how long its queues may be, so
    `device_id` (0: any driver may try) and `queue_size` are the caller's. `queues` limits what is
    used of the queues that the backend has. A call doorbell without a descriptor is polled.
    `protocol_features` masks what is agreed on, for tests of a backend; `dialect` says by which
    bits it knows the features that peers number differently, none without it.

    With `in_band` kicks and calls are messages, each waited for until it is acknowledged, in place
    of descriptors: far slower, for a simulation that has to see them in order.

    With `reconnect` the link outlives its backend: when that goes away, killed or started anew, the
    path is connected to again and again, for ever and at most a second apart, and the next one
    takes up what was in flight. What a driver asked is then answered once, if later; the device may
    carry it out twice. A reset does not wait for the next backend. One that is no longer the same
    device ends the link, as going away does without `reconnect`.

    Raises `OSError` if nobody listens there, `PeerError` for a backend that breaks the protocol,
    `NegotiationError` for one that lacks what `in_band` or `reconnect` needs, as inflight
    descriptors, and `trio.BrokenResourceError` for one that goes away. Leaving closes the
    connection and the shared memory. Cancelled, it has left nothing behind.
    """
    dialect = dialect or Dialect()
    needed = _needed(in_band=in_band, reconnect=reconnect)
    session = await connect(path, dialect, protocol_features & WANTED, needed)
    with ExitStack() as stack:
        stack.callback(session.channel.close)
        count = 1 if session.queues is None else session.queues
        bells = Bells(count if queues is None else min(count, queues), doorbell, call_doorbell)
        stack.callback(bells.close)
        link = VhostUserLink(
            session, bells, device_id=device_id, queue_size=queue_size, memory_size=memory_size
        )
        stack.callback(link.close)
        link.lasting = reconnect
        again = partial(connect, path, dialect, session.agreed, needed) if reconnect else None
        async with Keeper(link, again).keeping():
            yield link


def _needed(*, in_band: bool, reconnect: bool) -> ProtocolFeature:
    """Return the protocol features without which the arguments cannot be met."""
    needed = ProtocolFeature(0)
    if reconnect:  # or no backend could take over from another
        needed |= ProtocolFeature.INFLIGHT_SHMFD
    if in_band:
        needed |= ProtocolFeature.INBAND_NOTIFICATIONS
    return needed | needed.needs
