"""Serve a device over a link."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from paravirt.transport import MemoryGone, NegotiationError, PeerError
from paravirt.transport.link import ConfigWrite, DriverReady, QueueStart, QueueStop, Reset

from ._loop import current_loop
from ._metrics import ServerStatistics
from ._queue import DeviceQueue
from ._workers import Workers, apart, plain

if TYPE_CHECKING:
    from paravirt.transport import Cause, ConfigSpace
    from paravirt.transport.link import DeviceLink

    from ._device import Device
    from ._request import Request

__all__ = ("serve",)

_log = logging.getLogger("paravirt.server")

TELL_NS = 1_000_000_000
"""Between two lines of the log about one fault of a queue: a guest can repeat it at each kick."""


@trio.lowlevel.enable_ki_protection
async def serve(
    device: Device,
    link: DeviceLink,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a device until its driver's side goes away.

    `started()` fires when a driver can negotiate. Any number of resets may follow, each of which
    cancels the handlers. Returns when the peer goes away, or took its memory away. On every exit
    the device's end of the link is closed, not the device; the driver's end then gets
    `trio.BrokenResourceError`. Cancelled, requests that were taken are not answered.

    Raises `trio.BusyResourceError` if the device is being served already, `ValueError` for a
    `concurrency` below 1, and whatever a handler or `Device.run` raised that is not meant for the
    guest, once every request at hand is settled; a `KeyboardInterrupt` does not wait for handlers
    that are suspended.
    """
    if device.server is not None:
        if not device.server.serves(link):
            link.close_device_end()
        raise trio.BusyResourceError(f"{type(device).__name__} is being served already")
    server = Server(device, link)
    device.server = server
    try:
        if device.concurrency is not None and device.concurrency < 1:
            raise ValueError(f"no handler can run with a concurrency of {device.concurrency}")
        task_status.started()
        await server.run()
    finally:
        device.server = None
        link.close_device_end()


class Server:
    """One device over one link: follows the driver from reset to reset."""

    def __init__(self, device: Device, link: DeviceLink) -> None:
        self._device = device
        self._link = link
        self._queues: dict[int, DeviceQueue] = {}
        self._handled = 0
        """Queues with workers that still run."""
        self._features = 0
        self._resets = 0
        self._bug: BaseException | None = None
        self._tell_after: dict[tuple[int, Cause | None], int] = {}
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve one driver after another; returns when the peer has gone."""
        while (reset := await self._live()) is not None:
            self._resets += 1
            reset.done()

    async def _live(self) -> Reset | None:
        """Serve from a reset to the next, which is returned; None when the peer has gone."""
        reset: Reset | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                try:
                    reset = await self._follow(nursery)
                except Exception as error:  # noqa: BLE001
                    self.report(error)
                nursery.cancel_scope.cancel()
        except BaseException as error:
            if self._bug is None:
                raise
            raise BaseExceptionGroup("the server ended", [error, self._bug]) from None
        finally:
            for queue in self._queues.values():
                queue.close()
            self._queues.clear()
            self._handled = self._features = 0
        if self._bug is not None:
            raise self._bug
        return reset

    def serves(self, link: DeviceLink) -> bool:
        """Say whether this is the link."""
        return self._link is link

    async def _follow(self, nursery: trio.Nursery) -> Reset | None:
        while (change := await self._link.next_change()) is not None:
            match change:
                case QueueStart():
                    self._start_queue(change, nursery)
                case QueueStop():
                    self._stop_queue(change)
                case DriverReady():
                    nursery.start_soon(self._run_device)
                case ConfigWrite():
                    self._write_config(change)
                case Reset():
                    return change
        return None

    def _start_queue(self, start: QueueStart, nursery: trio.Nursery) -> None:
        if self._bug is not None:
            return  # an earlier queue has ended the server already
        loop = current_loop()
        self._features = start.ring.geometry.features  # by which a device tells its queues apart
        taken = start.queue in self._device.taken_queues
        size, ahead = self._device.header_size, None if taken else self._device.ahead()
        queue = DeviceQueue(
            start, loop, self.peer_error, taken=taken, header_size=size, ahead=ahead
        )
        self._queues[queue.index] = queue
        if not taken:
            self._handled += 1
            nursery.start_soon(self._run_queue, Workers(queue, self._device, loop, self))

    def _stop_queue(self, stop: QueueStop) -> None:
        queue = self._queues.get(stop.queue)
        if queue is None:  # it was never started, since an earlier queue has ended the server
            stop.done()
            return

        def drained() -> None:
            del self._queues[stop.queue]
            queue.close()
            stop.done()

        queue.drain(drained, suspend=stop.suspend)

    @trio.lowlevel.enable_ki_protection
    async def _run_queue(self, workers: Workers) -> None:
        try:
            with workers.queue.handling:
                await workers.run()
        except BaseException as error:  # noqa: BLE001
            self._take(error)
        else:
            workers.queue.settle()
        self._handled -= 1
        if self._handled == 0 and self._bug is not None:
            self._scope.cancel()

    async def _run_device(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                await self._device.run(nursery)
        except BaseException as error:  # noqa: BLE001
            self._take(error)

    def _write_config(self, write: ConfigWrite) -> None:
        try:
            self._device.config_written(write.offset, write.data)
        except NegotiationError as refusal:
            write.done(refusal)
        except Exception as bug:  # noqa: BLE001
            write.done(NegotiationError("the device failed"))
            self.report(bug)
        else:
            write.done()

    # What goes wrong.

    def fail(self, request: Request, error: BaseException) -> None:
        """Tell the guest that its request failed."""
        try:
            told = self._device.fail(request, error)
        except Exception as bug:  # noqa: BLE001
            told = False
            self.report(bug)
        if not told:
            self._link.need_reset()

    def report(self, bug: BaseException) -> None:
        """Take an exception that is not for the guest: settle what is at hand, then raise it.

        One that is no `Exception` does not wait for handlers that are suspended.
        """
        at_once = not isinstance(bug, Exception)
        if self._bug is not None:
            second = self._bug if at_once else bug
            _log.error("one more error while another ends the server", exc_info=second)
        if self._bug is None or at_once:
            self._bug = bug
        for queue in self._queues.values():
            queue.stop()
        if self._handled == 0 or at_once:
            self._scope.cancel()

    def _take(self, error: BaseException) -> None:
        """Report what came out of a task, without the groups that nurseries put around it."""
        bug, rest = apart(error)
        if bug is not None:
            self.report(plain(bug))
        if rest is not None:
            raise rest

    def peer_error(self, queue: DeviceQueue, error: PeerError) -> None:
        """Take what the peer did to a queue: it is signalled, and told of now and then."""
        what = queue.index, error.cause
        now = current_loop().clock()
        if now >= self._tell_after.get(what, now):
            self._tell_after[what] = now + TELL_NS
            _log.warning("queue %d: %s", queue.index, error)
        self._link.signal_error(queue.index)
        if isinstance(error, MemoryGone):
            self._link.close_device_end()  # next_change then says that the peer has gone

    # What the device asks.

    def queue(self, index: int) -> DeviceQueue:
        """Return a queue that the driver started; raises `RuntimeError` if it is not."""
        try:
            return self._queues[index]
        except KeyError:
            raise RuntimeError(f"the driver has not started queue {index}") from None

    @property
    def features(self) -> int:
        """The features that the driver accepted, 0 before it started a queue."""
        return self._features

    def set_config(self, config: ConfigSpace) -> None:
        """Show another configuration space to the driver, and tell it."""
        self._link.set_config(config.to_bytes())

    def statistics(self) -> ServerStatistics:
        """Return what happened since the driver started."""
        queues = [queue.statistics() for _, queue in sorted(self._queues.items())]
        return ServerStatistics(resets=self._resets, queues=queues)
