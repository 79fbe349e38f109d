"""A frontend that keeps a file of what is in flight, for the backend that comes next."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from paravirt.hostside.vhost_user import serve_vhost_user
from paravirt.transport.vhost_user import ProtocolFeature, Request, payloads as p
from tests.hostside.frontend import Frontend, attached, pair

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from paravirt.hostside import Device
    from paravirt.hostside.vhost_user import Terms
    from tests.hostside.serving import Parked

AGREED = ProtocolFeature.REPLY_ACK | ProtocolFeature.INFLIGHT_SHMFD | ProtocolFeature.RESET_DEVICE
WANTED = p.Inflight(0, 0, 1, 16)


@dataclass
class Kept:
    """The file as a frontend keeps it."""

    fd: int
    about: p.Inflight

    async def give(self, frontend: Frontend) -> None:
        await frontend.ask(Request.SET_INFLIGHT_FD, self.about, [self.fd])


async def ask_for(frontend: Frontend, wanted: p.Inflight = WANTED) -> Kept:
    """Have the backend make a file."""
    with await frontend.channel.request(Request.GET_INFLIGHT_FD, wanted) as answer:
        assert isinstance(answer.payload, p.Inflight)
        return Kept(answer.fds.take(), answer.payload)


@asynccontextmanager
async def tracked(
    device: Device, *, terms: Terms | None = None, also: int = 0
) -> AsyncGenerator[tuple[Frontend, Kept]]:
    """Serve a device to a frontend that keeps a file, with the queue running.

    `also` are bits of protocol features to agree on besides those.
    """
    async with attached(device, terms=terms) as frontend:
        await frontend.agree(int(AGREED) | also)
        kept = await ask_for(frontend)
        try:
            await kept.give(frontend)
            await frontend.bring_up()
            yield frontend, kept
        finally:
            os.close(kept.fd)


async def hand_over(frontend: Frontend, kept: Kept, device: Device, nursery: trio.Nursery) -> None:
    """Let another backend serve the queue."""
    stream, sock = pair()
    frontend.reconnect(sock)
    await nursery.start(serve_vhost_user, device, stream)
    await frontend.agree(int(AGREED))
    await kept.give(frontend)
    await frontend.bring_up()


async def entered(device: Parked, count: int) -> None:
    """Wait until so many requests are with a handler."""
    while len(device.entered) < count:
        await trio.lowlevel.checkpoint()


async def collect(frontend: Frontend, count: int) -> list[int]:
    """Wait for so many chains to come back; returns their heads."""
    heads: list[int] = []
    while len(heads) < count:
        await trio.lowlevel.checkpoint()
        heads += frontend.queues[0].ring.reap()[::2]
    return heads
