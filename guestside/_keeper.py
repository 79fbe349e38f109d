"""What goes on beside the drivers of a link: its backend speaks up, breaks a queue, goes away."""

from __future__ import annotations

import logging
import select
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import EventFd
from paravirt.transport import PeerError, Status
from paravirt.transport.vhost_user import (
    BACKEND_REQUESTS,
    BackendRequest,
    Channel,
    Incoming,
    ProtocolFeature,
    Request,
)
from paravirt.transport.vhost_user.payloads import VringState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from paravirt.doorbells import Doorbell

    from ._backend_link import VhostUserLink
    from ._session import Session

__all__ = ()  # of use to this room only

FIRST_WAIT = 0.01
LONGEST_WAIT = 1.0
"""Seconds between two attempts to connect, doubled from the first to the longest."""
NOTIFICATIONS = (BackendRequest.VRING_CALL, BackendRequest.VRING_ERR)
REFUSED = 1  # the acknowledgement of what we do not do

_log = logging.getLogger("paravirt.vhost_user")


class Keeper:
    """Listens to the backend of a link, and finds another if that is wanted."""

    def __init__(self, link: VhostUserLink, again: Callable[[], Awaitable[Session]] | None) -> None:
        """Keep a link; `again` connects to the next backend, None if there is to be none."""
        self._link = link
        self._again = again

    @asynccontextmanager
    async def keeping(self) -> AsyncGenerator[None]:
        """Keep the link while this is entered. Raises what the first backend refuses."""
        session = self._link.session
        back = await _open_back_channel(session)
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, session, back)
            nursery.start_soon(self._notice_broken_queues)
            if session.in_band:
                for queue in range(len(self._link.queue_sizes)):
                    nursery.start_soon(self._link.carry_kicks, queue)
            try:
                yield
            except BaseException as error:  # noqa: BLE001  (raised below, not as part of a group)
                failure = error
            nursery.cancel_scope.cancel()
        self._link.session.channel.close()
        if failure is not None:
            raise failure

    async def _run(self, session: Session, back: Channel | None) -> None:
        """Attend to one backend after another."""
        while True:
            await self._attend(session, back)
            session.channel.close()
            if self._again is None:
                break
            try:
                session, back = await self._find()
            except PeerError as error:
                _log.warning("no backend takes over: %s", error)
                break
        self._link.lose()

    async def _attend(self, session: Session, back: Channel | None) -> None:
        """Listen to what the backend says of its own accord, until it goes away."""
        async with trio.open_nursery() as nursery:
            if back is not None:
                look = EventFd()
                nursery.start_soon(self._answer, back, look)
                nursery.start_soon(self._watch_status, look)
            nursery.start_soon(_notice_end, session)
            await session.ended.wait()
            nursery.cancel_scope.cancel()

    async def _find(self) -> tuple[Session, Channel | None]:
        """Connect until a backend has taken over. Raises `PeerError` for one that cannot."""
        wait = FIRST_WAIT
        while True:
            try:
                return await self._take_over()
            except (OSError, trio.BrokenResourceError):
                await trio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)

    async def _take_over(self) -> tuple[Session, Channel | None]:
        assert self._again is not None
        session = await self._again()
        back: Channel | None = None
        try:
            session.check_like(self._link.session)
            back = await _open_back_channel(session)
            await self._link.resume(session)
        except BaseException:
            session.channel.close()
            if back is not None:
                back.close()
            raise
        return session, back

    async def _notice_broken_queues(self) -> None:
        while True:
            await self._link.broke.wait()
            self._link.lose(reset_helps=True)

    async def _answer(self, back: Channel, look: Doorbell) -> None:
        """Serve the back channel. It never waits for the main one, which may wait for this."""
        try:
            while (incoming := await back.receive()) is not None:
                with incoming:
                    await back.acknowledge(incoming, 0 if self._take(incoming, look) else REFUSED)
        except (PeerError, trio.BrokenResourceError):
            pass  # its own loss; the main channel tells what becomes of the device
        finally:
            back.close()

    def _take(self, incoming: Incoming, look: Doorbell) -> bool:
        """Do what the backend asks; False if we do not."""
        link, request, state = self._link, incoming.header.request, incoming.payload
        if request == BackendRequest.CONFIG_CHANGE_MSG:
            link.generation += 1
            link.changed.ring()
            look.ring()
            return True
        if request not in NOTIFICATIONS or not link.session.in_band:
            return False
        if not isinstance(state, VringState) or state.value or state.index >= len(link.queue_sizes):
            return False
        link.notified(request, state.index)
        return True

    async def _watch_status(self, look: Doorbell) -> None:
        """After a change notification, see whether the device asks for a reset (2.1.2)."""
        try:
            while True:
                await look.wait()
                if Status.DEVICE_NEEDS_RESET in await self._link.get_status():
                    self._link.lose(reset_helps=True)
        except (PeerError, trio.BrokenResourceError):
            pass  # the end of the session tells
        finally:
            look.close()


async def _open_back_channel(session: Session) -> Channel | None:
    """Give the backend a way to speak of its own accord, if it wants one."""
    if ProtocolFeature.BACKEND_REQ not in session.agreed:
        return None
    ours, theirs = trio.socket.socketpair()
    channel = Channel(ours, BACKEND_REQUESTS)
    try:
        with theirs:
            await session.ask(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
    except BaseException:
        channel.close()
        raise
    return channel


async def _notice_end(session: Session) -> None:
    """Wait for the end of the connection, without a look at what arrives on it."""
    if not session.channel.closed:
        with select.epoll() as ends:
            ends.register(session.channel.fileno(), select.EPOLLRDHUP)
            await trio.lowlevel.wait_readable(ends.fileno())
    session.ended.set()
