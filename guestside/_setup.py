"""What a vhost-user backend was told, so that the next one can be told the same."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import trio

from paravirt.doorbells import Doorbell, DoorbellMaker, EventFd
from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import PROTOCOL_FEATURES, ProtocolFeature, Request
from paravirt.transport.vhost_user.payloads import (
    Inflight,
    MemoryRegion,
    MemoryTable,
    Number,
    VringAddress,
    VringFile,
    VringState,
)

if TYPE_CHECKING:
    from paravirt.transport import Memory

    from ._session import Session

__all__ = ()  # of use to this room only

POLL = 0.001  # seconds between looks at a status that nobody tells us about


class Place(msgspec.Struct, frozen=True):
    """A queue as the driver set it up."""

    size: int
    desc: int
    driver: int
    device: int


class Bells:
    """The doorbells of a link."""

    def __init__(self, queues: int, kick: DoorbellMaker, call: DoorbellMaker) -> None:
        """Make them. Raises `ValueError` for a kick that stays in this process."""
        self._all: list[Doorbell] = []
        try:
            self.changed = self._make(EventFd)
            self.broke = self._make(EventFd)
            self.unheard = self._make(EventFd)
            """What the backend calls where the driver polls."""
            self.kicks = [_with_fd(self._make(kick)) for _ in range(queues)]
            self.calls = [self._make(call) for _ in range(queues)]
        except BaseException:
            self.close()
            raise

    def _make(self, maker: DoorbellMaker) -> Doorbell:
        bell = maker()
        self._all.append(bell)
        return bell

    def close(self) -> None:
        """Close all; idempotent."""
        for bell in self._all:
            bell.close()


def _with_fd(bell: Doorbell) -> Doorbell:
    if bell.fileno() is None:
        raise ValueError(f"no other process hears this kick: {bell.describe()}")
    return bell


class Setup:
    """Features, memory, queues and status, each told to a session when its time comes.

    The methods take several messages. One that did not come to its end may be called again, with
    another session once that one was told all that is noted here: see `replay`.
    """

    def __init__(self, memory: Memory, bells: Bells) -> None:
        self.status = 0
        """The device status as the backend knows it."""
        self.places: dict[int, Place] = {}
        """The queues as the driver set them up."""
        self._memory = memory
        self._bells = bells
        self._features: int | None = None
        self._shared = False
        self._inflight: tuple[Inflight, int] | None = None
        self._running: list[int] = []

    def close(self) -> None:
        """Close the inflight file; idempotent."""
        if self._inflight is not None:
            os.close(self._inflight[1])
            self._inflight = None

    async def accept(self, session: Session, features: int) -> None:
        """Accept features (2.2)."""
        wire = features | (PROTOCOL_FEATURES if session.framed else 0)
        await session.ask(Request.SET_FEATURES, Number(wire))
        self._features = features

    async def start(self, session: Session) -> None:
        """Share memory, and start the queues."""
        if not self._shared:
            await self._share(session)
            self._shared = True
        if self._inflight is None and ProtocolFeature.INFLIGHT_SHMFD in session.agreed:
            self._inflight = await self._make_inflight(session)
            await self._give_inflight(session)
        for queue in self.places:
            if queue not in self._running:
                await self._start(session, queue)

    async def tell_status(self, session: Session, status: int) -> None:
        """Write the device status."""
        if ProtocolFeature.STATUS in session.agreed:
            await session.ask(Request.SET_STATUS, Number(status))
        self.status = status

    async def reset(self, session: Session) -> None:
        """Make the backend forget the driver: what cancels goes before what waits for requests."""
        if self._running and ProtocolFeature.RESET_DEVICE in session.agreed:
            await session.ask(Request.RESET_DEVICE)
        await self.tell_status(session, 0)
        while self._running:
            queue = self._running[-1]
            if session.framed:
                await session.ask(Request.SET_VRING_ENABLE, VringState(queue, 0))
            await session.ask(Request.GET_VRING_BASE, VringState(queue, 0))
            self._running.pop()
        while await session.status():  # noqa: ASYNC110  (the backend does not say when)
            await trio.sleep(POLL)
        self.forget()

    def forget(self) -> None:
        """Note that the driver was reset: no queue runs, and nothing is in flight."""
        self.status = 0
        self.places.clear()
        self._running.clear()
        self.close()

    async def replay(self, session: Session) -> None:
        """Tell a new backend all of it; it takes up what the one before left behind."""
        if self._features is not None:
            await self.accept(session, self._features)
        if self._shared:
            await self._share(session)
        if self._inflight is not None:
            await self._give_inflight(session)
        for queue in self._running.copy():
            await self._start(session, queue)
        if self.status:
            await self.tell_status(session, self.status)

    async def _share(self, session: Session) -> None:
        """Give the backend the memory. Our addresses in it are the device's own."""
        rows = [MemoryRegion(r.addr, r.size, r.addr, r.offset) for r in self._memory.regions]
        fds = [region.fd for region in self._memory.regions]
        if session.slots:
            for row, fd in zip(rows, fds, strict=True):
                await session.ask(Request.ADD_MEM_REG, row, [fd])
        else:
            await session.ask(Request.SET_MEM_TABLE, MemoryTable(tuple(rows)), fds)

    async def _make_inflight(self, session: Session) -> tuple[Inflight, int]:
        """Have the backend make a file, which outlives it with us."""
        size = max((place.size for place in self.places.values()), default=1)
        wanted = Inflight(0, 0, max(self.places, default=0) + 1, size)
        answer, fd = await session.ask_for_file(Request.GET_INFLIGHT_FD, wanted)
        assert isinstance(answer, Inflight)
        if fd is None:
            raise NegotiationError("the backend made no inflight file")
        return answer, fd

    async def _give_inflight(self, session: Session) -> None:
        assert self._inflight is not None
        about, fd = self._inflight
        await session.ask(Request.SET_INFLIGHT_FD, about, [fd])

    async def kick(self, session: Session, queue: int) -> None:
        """Kick a queue by a message, if it runs."""
        if queue in self._running:
            await session.ask(Request.VRING_KICK, VringState(queue, 0))

    async def _start(self, session: Session, queue: int) -> None:
        ask, place = session.ask, self.places[queue]
        used = int.from_bytes(self._memory.read(place.device + 2, 2), "little")
        address = VringAddress(queue, 0, place.desc, place.device, place.driver)
        await ask(Request.SET_VRING_NUM, VringState(queue, place.size))
        await ask(Request.SET_VRING_BASE, VringState(queue, used))
        await ask(Request.SET_VRING_ADDR, address)
        if not session.in_band:
            await self._give(session, Request.SET_VRING_ERR, queue, self._bells.broke)
            await self._give(session, Request.SET_VRING_CALL, queue, self._bells.calls[queue])
        if queue not in self._running:
            self._running.append(queue)
        if not session.in_band:  # where the first VRING_KICK starts it
            await self._give(session, Request.SET_VRING_KICK, queue, self._bells.kicks[queue])
        if session.framed:
            await ask(Request.SET_VRING_ENABLE, VringState(queue, 1))

    async def _give(self, session: Session, request: Request, queue: int, bell: Doorbell) -> None:
        fd = bell.fileno()
        if fd is None:
            # NO_FD would say that we poll, but libvhost-user breaks the queue at its first call.
            fd = self._bells.unheard.fileno()
        assert fd is not None
        await session.ask(request, VringFile(queue), [fd])
