"""A driver's link to a vhost-user backend: whatever `Driver` asks, said in vhost-user."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from paravirt.transport import Memory, NegotiationError, PeerError, Region, Status
from paravirt.transport.vhost_user import BackendRequest, ProtocolFeature, Request
from paravirt.transport.vhost_user.payloads import ConfigAccess

from ._setup import Place, Setup
from ._state import load_state, save_state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from paravirt.doorbells import Doorbell
    from paravirt.transport.vhost_user.payloads import Payload

    from ._session import Session
    from ._setup import Bells

__all__ = ()  # a user gets one from `connect_vhost_user`

T = TypeVar("T")

MEMORY_BASE = 1 << 20
"""Where memory starts for the device, so that address 0 is a mistake that shows."""


class VhostUserLink:
    """A `DriverLink` over a session; made by `connect_vhost_user`."""

    lasting = False
    """Whether another backend takes the place of one that goes away."""

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
        self._setup = Setup(self.memory, bells)
        self._turn = trio.Lock()
        """Whoever tells the backend something that takes several messages."""
        self._replaced = trio.Event()

    def close(self) -> None:
        """Close memory and doorbells; idempotent."""
        self._setup.close()
        self._bells.close()
        self.memory.close()

    def lose(self, *, reset_helps: bool = False) -> None:
        """Let everybody know that no more replies come: the backend is gone, or a queue broke."""
        self.needs_reset = self.needs_reset or reset_helps
        if not reset_helps:
            self.gone = True
            self._replaced.set()
        self.changed.ring()
        for bell in self._bells.calls:
            bell.ring()

    def kick(self, queue: int) -> Doorbell:
        """Return the doorbell that the driver rings for a queue."""
        return self._bells.kicks[queue]

    def call(self, queue: int) -> Doorbell:
        """Return the doorbell that the driver waits on for a queue."""
        return self._bells.calls[queue]

    async def carry_kicks(self, queue: int) -> None:
        """Send the kicks of a queue as messages, for ever.

        One that finds no backend is lost: the next backend is kicked anew.
        """
        while True:
            await self.kick(queue).wait()
            try:
                async with self._turn:
                    await self._setup.kick(self.session, queue)
            except trio.BrokenResourceError:
                pass  # the end of the session tells
            except PeerError:
                self.lose(reset_helps=True)

    def notified(self, request: int, queue: int) -> None:
        """Take a message of the backend's about a queue: VRING_CALL, or VRING_ERR."""
        (self.call(queue) if request == BackendRequest.VRING_CALL else self.broke).ring()

    async def resume(self, session: Session) -> None:
        """Go on with another backend, which takes up what the one before left behind."""
        async with self._turn:
            await self._setup.replay(session)
            self.session = session
        self._replaced.set()
        self._replaced = trio.Event()
        self.generation += 1  # of what the configuration space is now, nobody has told us
        for bell in self.changed, *self._bells.kicks, *self._bells.calls:
            bell.ring()

    async def _do(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Have the backend do something; from the start by the next one, if it goes away."""
        return await self.session.at_home(partial(self._do_here, work))

    async def _do_here(self, work: Callable[[Session], Awaitable[T]]) -> T:
        while True:
            replaced = self._replaced
            try:
                async with self._turn:
                    return await work(self.session)
            except trio.BrokenResourceError:
                if self.gone or not self.lasting:
                    raise
            await replaced.wait()

    async def get_status(self) -> Status:
        """Return the device status: the backend's with STATUS, else what was set.

        Between two backends it is what was set, too.
        """
        await trio.lowlevel.checkpoint()
        if ProtocolFeature.STATUS in self.session.agreed:
            try:
                return await self.session.status()
            except trio.BrokenResourceError:
                if self.gone or not self.lasting:
                    raise
        return Status(self._setup.status)

    async def set_status(self, status: int) -> None:
        """Write the device status; 0 stops all queues, DRIVER_OK starts those that were set up."""
        await trio.lowlevel.checkpoint()
        setup = self._setup
        if not status:
            await self.session.at_home(self._reset)
            return
        if status & ~setup.status & Status.DRIVER_OK:
            await self._do(setup.start)
        await self._do(lambda session: setup.tell_status(session, status))

    async def _reset(self) -> None:
        """Reset. A backend that has gone away needs none; its successor hears of nothing then."""
        async with self._turn:
            try:
                await self._setup.reset(self.session)
            except trio.BrokenResourceError:
                if self.gone or not self.lasting:
                    raise
                self._setup.forget()
        self.needs_reset = False

    async def set_features(self, features: int) -> None:
        """Accept features (2.2)."""
        await self._do(lambda session: self._setup.accept(session, features))

    async def set_queue(self, queue: int, size: int, desc: int, driver: int, device: int) -> None:
        """Remember where a queue is; the backend is told at DRIVER_OK."""
        await trio.lowlevel.checkpoint()
        self._setup.places[queue] = Place(size, desc, driver, device)

    async def read_config(self, offset: int, size: int) -> tuple[bytes, int]:
        """Return bytes of the configuration space, and its generation."""
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise trio.BrokenResourceError("the backend is gone")
        generation = self.generation
        if not size:
            return b"", generation
        self._need_config()
        answer = await self._ask(Request.GET_CONFIG, ConfigAccess(offset, 0, bytes(size)))
        assert isinstance(answer, ConfigAccess)
        return answer.data[:size], generation

    async def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space; without REPLY_ACK nobody says whether it was taken."""
        await trio.lowlevel.checkpoint()
        self._need_config()
        await self._ask(Request.SET_CONFIG, ConfigAccess(offset, 0, data))

    async def save_state(self) -> bytes:
        """Return what the device keeps besides guest memory, for another backend to load.

        Its queues must be stopped (`set_status(0)`, or the end of a driver). Raises
        `NegotiationError` if the backend cannot. Cancelled, the link is of no use any more.
        """
        return await save_state(self.session)

    async def load_state(self, state: bytes) -> None:
        """Have the device go on from what `save_state` of another one's link returned.

        Its queues must be stopped. Raises `NegotiationError` if it refuses, as it was before.
        Cancelled, the link is of no use any more.
        """
        await load_state(self.session, state)

    async def _ask(self, request: Request, payload: Payload) -> Payload:
        return await self._do(lambda session: session.ask(request, payload))

    def _need_config(self) -> None:
        if ProtocolFeature.CONFIG not in self.session.agreed:
            raise NegotiationError("the backend has no configuration space: it lacks CONFIG")
