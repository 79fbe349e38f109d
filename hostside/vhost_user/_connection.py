"""One connection: the tasks that live as long as a frontend does, and how it ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from paravirt.transport import PeerError
from paravirt.transport.vhost_user import REQUESTS, Channel, Incoming

from .._server import serve
from ._link import BackendLink
from ._migration import Migration
from ._offer import Offer
from ._rings import Rings
from ._session import Session
from ._state import Transfer
from ._vring import Vring

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._device import Device
    from ._terms import Terms

__all__ = ()  # of use to this room only

_log = logging.getLogger("paravirt.vhost_user")

READ_AHEAD = 16
"""Messages read before they are answered: the end of a connection is seen behind them, even while
a handler takes its time to finish."""
GRACE = 0.5
"""Seconds in which to answer them once the frontend has closed its end."""


async def serve_connection(device: Device, sock: trio.socket.SocketType, terms: Terms) -> None:
    """Serve one frontend until it goes; whatever it does ends in one line of the log."""
    await _Connection(device, sock, terms).run()


class _Connection:
    def __init__(self, device: Device, sock: trio.socket.SocketType, terms: Terms) -> None:
        offer = Offer(device, terms)
        sizes = device.queue_sizes[: offer.queues]
        vrings = [Vring(index, size) for index, size in enumerate(sizes)]
        self._device = device
        self._channel = Channel(sock, REQUESTS)
        self._link = BackendLink(vrings, device.config.to_bytes())
        self._rings = Rings(vrings, self._link, offer)
        self._transfer = Transfer(device, self._rings)
        migration = Migration(self._rings, self._transfer)
        self._session = Session(self._channel, self._link, self._rings, offer, migration)
        self._put, self._messages = trio.open_memory_channel[Incoming](READ_AHEAD)
        self._scope = trio.CancelScope()
        self._error: Exception | None = None
        self._ended = False

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                for part in (
                    self._serve,
                    self._read,
                    self._answer,
                    self._link.tell,
                    self._transfer.run,
                ):
                    nursery.start_soon(self._guarded, part)
        finally:
            self._close()
        self._report()

    async def _guarded(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part; the first one to end ends the connection."""
        try:
            await part()
        except Exception as error:  # noqa: BLE001
            if not self._ended:
                self._error = error
        self._ended = True
        self._scope.cancel()

    async def _serve(self) -> None:
        await serve(self._device, self._link)  # returns when the frontend took its memory away

    async def _read(self) -> None:
        with self._put:
            while (incoming := await self._channel.receive()) is not None:
                try:
                    await self._put.send(incoming)
                except BaseException:
                    incoming.close()
                    raise
        await trio.sleep(GRACE)

    async def _answer(self) -> None:
        async for incoming in self._messages:
            with incoming:
                await self._session.answer(incoming)

    def _close(self) -> None:
        self._channel.close()
        self._link.close_device_end()
        self._rings.close()
        while True:
            try:
                self._messages.receive_nowait().close()
            except (trio.WouldBlock, trio.EndOfChannel):
                return

    def _report(self) -> None:
        error = self._error
        match error:
            case None | trio.BrokenResourceError() | trio.ClosedResourceError():
                _log.info("connection closed")
            case PeerError() | OSError() | trio.BusyResourceError():
                _log.warning("connection closed: %s", error)
            case _:
                _log.error("connection closed: the device failed", exc_info=error)
