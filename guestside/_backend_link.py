"""A driver's link to a vhost-user backend: whatever `Driver` asks, said in vhost-user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from paravirt.doorbells import Doorbell, DoorbellMaker, EventFd
from paravirt.transport import Memory, NegotiationError, Region, Status
from paravirt.transport.vhost_user import PROTOCOL_FEATURES, ProtocolFeature, Request
from paravirt.transport.vhost_user.payloads import (
    ConfigAccess,
    MemoryRegion,
    MemoryTable,
    Number,
    VringAddress,
    VringFile,
    VringState,
)

if TYPE_CHECKING:
    from ._session import Session

__all__ = ()  # a user gets one from `connect_vhost_user`

MEMORY_BASE = 1 << 20
"""Where memory starts for the device, so that address 0 is a mistake that shows."""
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


class VhostUserLink:
    """A `DriverLink` over a session; made by `connect_vhost_user`."""

    def __init__(
        self, session: Session, bells: Bells, *, device_id: int, queue_size: int, memory_size: int
    ) -> None:
        """Make memory, and take over the doorbells; nothing is shared yet."""
        self.session = session
        """The backend: what it offered, what was agreed on, and a way to ask it."""
        self.device_id = device_id
        """The device type as the caller named it, 0 if not: vhost-user does not say."""
        self.device_features = session.features
        """What the backend offers."""
        self.queue_sizes = [queue_size] * len(bells.kicks)
        """What the caller chose: vhost-user does not say what a backend takes."""
        self.concurrent = True
        """A backend is always a process, or at least a task, of its own."""
        self.needs_reset = False
        """Whether a queue broke, or the device said that it needs a reset."""
        self.gone = False
        """Whether the backend's end is closed."""
        self.generation = 0
        """How often the backend said that the configuration space changed."""
        self.changed = bells.changed
        """Rung when the configuration space or the status changed."""
        self.broke = bells.broke
        """Rung by the backend when a queue broke."""
        self.memory = Memory([Region.create(memory_size, addr=MEMORY_BASE)])
        self.pool = (MEMORY_BASE, memory_size)
        self._bells = bells
        self._status = 0
        self._places: dict[int, Place] = {}
        self._running: list[int] = []
        self._shared = False

    def close(self) -> None:
        """Close memory and doorbells; idempotent."""
        self._bells.close()
        self.memory.close()

    def lose(self, *, reset_helps: bool = False) -> None:
        """Let everybody know that no more replies come: the backend is gone, or a queue broke."""
        self.needs_reset = self.needs_reset or reset_helps
        self.gone = self.gone or not reset_helps
        self.changed.ring()
        for bell in self._bells.calls:
            bell.ring()

    def kick(self, queue: int) -> Doorbell:
        """Return the doorbell that the driver rings for a queue."""
        return self._bells.kicks[queue]

    def call(self, queue: int) -> Doorbell:
        """Return the doorbell that the driver waits on for a queue."""
        return self._bells.calls[queue]

    async def get_status(self) -> Status:
        """Return the device status: the backend's with STATUS, else what was set."""
        if ProtocolFeature.STATUS in self.session.agreed:
            return Status(await self.session.number(Request.GET_STATUS) & 0xFF)
        await trio.lowlevel.checkpoint()
        return Status(self._status)

    async def set_status(self, status: int) -> None:
        """Write the device status; 0 stops all queues, DRIVER_OK starts those that were set up."""
        await trio.lowlevel.checkpoint()
        if not status:
            await self._reset()
            return
        if status & ~self._status & Status.DRIVER_OK:
            await self._share()
            for queue in self._places:
                await self._start(queue)
        await self._tell_status(status)

    async def set_features(self, features: int) -> None:
        """Accept features (2.2)."""
        wire = features | (PROTOCOL_FEATURES if self.session.framed else 0)
        await self.session.ask(Request.SET_FEATURES, Number(wire))

    async def set_queue(self, queue: int, size: int, desc: int, driver: int, device: int) -> None:
        """Remember where a queue is; the backend is told at DRIVER_OK."""
        await trio.lowlevel.checkpoint()
        self._places[queue] = Place(size, desc, driver, device)

    async def read_config(self, offset: int, size: int) -> tuple[bytes, int]:
        """Return bytes of the configuration space, and its generation."""
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise trio.BrokenResourceError("the backend is gone")
        generation = self.generation
        if not size:
            return b"", generation
        self._need_config()
        answer = await self.session.ask(Request.GET_CONFIG, ConfigAccess(offset, 0, bytes(size)))
        assert isinstance(answer, ConfigAccess)
        return answer.data[:size], generation

    async def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space; without REPLY_ACK nobody says whether it was taken."""
        await trio.lowlevel.checkpoint()
        self._need_config()
        await self.session.ask(Request.SET_CONFIG, ConfigAccess(offset, 0, data))

    def _need_config(self) -> None:
        if ProtocolFeature.CONFIG not in self.session.agreed:
            raise NegotiationError("the backend has no configuration space: it lacks CONFIG")

    async def _tell_status(self, status: int) -> None:
        if ProtocolFeature.STATUS in self.session.agreed:
            await self.session.ask(Request.SET_STATUS, Number(status))
        self._status = status

    async def _share(self) -> None:
        """Give the backend the memory, once. Our addresses in it are the device's own."""
        if self._shared:
            return
        rows = [MemoryRegion(r.addr, r.size, r.addr, r.offset) for r in self.memory.regions]
        fds = [region.fd for region in self.memory.regions]
        if self.session.slots:
            for row, fd in zip(rows, fds, strict=True):
                await self.session.ask(Request.ADD_MEM_REG, row, [fd])
        else:
            await self.session.ask(Request.SET_MEM_TABLE, MemoryTable(tuple(rows)), fds)
        self._shared = True

    async def _start(self, queue: int) -> None:
        ask, place = self.session.ask, self._places[queue]
        address = VringAddress(queue, 0, place.desc, place.device, place.driver)
        await ask(Request.SET_VRING_NUM, VringState(queue, place.size))
        await ask(Request.SET_VRING_BASE, VringState(queue, 0))
        await ask(Request.SET_VRING_ADDR, address)
        await self._give(Request.SET_VRING_ERR, queue, self.broke)
        await self._give(Request.SET_VRING_CALL, queue, self._bells.calls[queue])
        self._running.append(queue)
        await self._give(Request.SET_VRING_KICK, queue, self._bells.kicks[queue])
        if self.session.framed:
            await ask(Request.SET_VRING_ENABLE, VringState(queue, 1))

    async def _give(self, request: Request, queue: int, bell: Doorbell) -> None:
        fd = bell.fileno()
        if fd is None:
            # NO_FD would say that we poll, but libvhost-user breaks the queue at its first call.
            fd = self._bells.unheard.fileno()
        assert fd is not None
        await self.session.ask(request, VringFile(queue), [fd])

    async def _reset(self) -> None:
        """Make the backend forget the driver: what cancels goes before what waits for requests."""
        if self._running and ProtocolFeature.RESET_DEVICE in self.session.agreed:
            await self.session.ask(Request.RESET_DEVICE)
        await self._tell_status(0)
        while self._running:
            queue = self._running[-1]
            if self.session.framed:
                await self.session.ask(Request.SET_VRING_ENABLE, VringState(queue, 0))
            await self.session.ask(Request.GET_VRING_BASE, VringState(queue, 0))
            self._running.pop()
        while await self.get_status():  # noqa: ASYNC110  (the backend does not say when)
            await trio.sleep(POLL)
        self._places.clear()
        self.needs_reset = False


def _with_fd(bell: Doorbell) -> Doorbell:
    if bell.fileno() is None:
        raise ValueError(f"no other process hears this kick: {bell.describe()}")
    return bell
