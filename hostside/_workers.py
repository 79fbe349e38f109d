"""The bounded, elastic pool of workers of one queue.

A worker with nothing to do leads, if nobody does: it alone waits for requests. A worker about to
await a handler first makes one idle worker runnable. If the handler suspends, that one goes on with
the batch, or leads; if it does not, nothing was switched. So a request never costs a task, and a
suspended handler never holds up the queue until the bound is reached.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import trio

from paravirt.transport import MemoryGone, PeerError

from ._request import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._device import Device
    from ._loop import Loop
    from ._queue import DeviceQueue
    from ._request import Request

__all__ = ()  # of use to this room only

IDLE_WORKERS = 4
"""Workers kept for the next burst; a spawned task costs 8-10 us, an idle one 10 KiB."""


Group: TypeAlias = "BaseExceptionGroup[BaseException]"


class Owner(Protocol):
    """Who takes what goes wrong."""

    def fail(self, request: Request, error: BaseException) -> None: ...

    def report(self, bug: BaseException) -> None: ...

    def peer_error(self, queue: DeviceQueue, error: PeerError) -> None: ...


def apart(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split what was raised into what is to be reported and what is to go on, as a cancellation."""
    reported = Exception, KeyboardInterrupt
    if isinstance(error, reported):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        return cast("Group", error).split(reported)
    return None, error


def plain(error: BaseException) -> BaseException:
    """Take off the groups that nurseries put around one exception."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("Group", error)
        if len(group.exceptions) != 1:
            return group
        error = group.exceptions[0]
    return error


class Workers:
    """Runs a device's handler over the requests of one queue."""

    def __init__(
        self,
        queue: DeviceQueue,
        device: Device,
        loop: Loop,
        owner: Owner,
    ) -> None:
        self.queue = self._queue = queue
        self._device = device
        self._loop = loop
        self._owner = owner
        self._batches = device.handles_batches
        bound = device.concurrency or queue.ring.geometry.size
        self._bound = 1 if self._batches else bound
        self._idle: list[trio.lowlevel.Task] = []
        self._count = 0
        self._led = False
        self._standby = False
        """A worker is runnable that will come by and publish."""

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Serve until the queue stops and all that was taken is settled.

        Cancelled, the handlers are too.
        """
        async with trio.open_nursery() as self._nursery:
            self._count = 1
            await self._work()

    @trio.lowlevel.enable_ki_protection
    async def _work(self) -> None:
        queue = self._queue
        serve = self._serve_batch if self._batches else self._serve_each
        self._standby = False
        while True:
            batch = queue.batch
            if not queue.sharing:  # else whoever shares goes on with it
                await serve()
            if queue.batch is not batch:
                continue  # the next one was fetched while a handler of this worker was suspended
            if queue.stopping:
                queue.publish()
                queue.attended = False
                self._wake_all()
                return
            if not (self._led or queue.sharing):
                self._led = True
                try:
                    await queue.refill()
                finally:
                    self._led = False
            elif not await self._rest():
                return

    async def _serve_each(self) -> None:
        queue, handle, loop = self._queue, self._device.handle, self._loop
        going_on = True
        while going_on:
            batch, stride = queue.batch, queue.stride
            over = False
            while not over:
                if queue.late:
                    await queue.share()
                queue.attended = True
                in_order = queue.in_order and batch is queue.batch  # as others left it meanwhile
                request: Request | None = None
                for request in islice(batch, stride):  # all workers draw from this one iterator
                    try:
                        result = handle(request)
                        if result is not None:
                            in_order = in_order and queue.leave_order(request)
                            if not self._standby:  # else that one is runnable still
                                self._expect_suspension()
                            loop.handling += 1
                            try:
                                await result
                            finally:
                                loop.handling -= 1
                                queue.attended = True
                    except BaseException as error:  # noqa: BLE001
                        in_order = in_order and queue.leave_order(request)
                        self._settle((request,), error)
                    if not in_order and not request.replied:
                        request.replied = True
                        queue.done.append(request.id)
                over = request is None or batch is not queue.batch or queue.end(stride, in_order)
                if not over:
                    stride = queue.look(stride)
            going_on = batch is queue.batch and not self._led and queue.advance_in_line()

    async def _serve_batch(self) -> None:
        queue, loop = self._queue, self._loop
        requests = list(queue.batch)
        if not requests:
            return
        queue.attended = True
        try:
            result = self._device.handle_batch(requests)
            if result is not None:
                self._expect_suspension()
                loop.handling += 1
                try:
                    await result
                finally:
                    loop.handling -= 1
                    queue.attended = True
        except BaseException as error:  # noqa: BLE001
            self._settle(requests, error)
        queue.end(len(requests), in_order=True)

    def _settle(self, requests: Sequence[Request], error: BaseException) -> None:
        """Tell the guest of a handler's end, and the server of what is not the guest's business."""
        mine, rest = apart(error)
        if isinstance(mine, MemoryGone):
            self._owner.peer_error(self._queue, mine)
        elif mine is not None:
            if isinstance(refusal := plain(mine), RequestError):
                mine = refusal
            for request in requests:
                if not request.replied:
                    self._owner.fail(request, mine)
            if not isinstance(mine, Exception):
                self._give_up(mine)
            if not isinstance(mine, RequestError):
                self._owner.report(mine)
        if rest is not None:
            raise rest

    def _give_up(self, interrupt: BaseException) -> None:
        """Settle what is left of the batch without its handlers, which nobody is to wait for."""
        for request in self._queue.batch:
            self._owner.fail(request, interrupt)
            request.reply()

    def _expect_suspension(self) -> None:
        """See to it that the queue is looked after, should this worker suspend now."""
        if not self._standby:
            if self._idle:
                trio.lowlevel.reschedule(self._idle.pop())
                self._standby = True
            elif self._count < self._bound:
                self._count += 1
                self._nursery.start_soon(self._work)
                self._standby = True
            else:
                self._queue.publish()
        self._queue.attended = self._standby

    async def _rest(self) -> bool:
        """Wait to be made runnable; False if there are enough idle workers without this one."""
        self._queue.publish()
        self._queue.attended = False
        if len(self._idle) >= IDLE_WORKERS:
            self._count -= 1
            return False
        task = trio.lowlevel.current_task()
        self._idle.append(task)

        def leave(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        self._standby = False
        return True

    def _wake_all(self) -> None:
        while self._idle:
            trio.lowlevel.reschedule(self._idle.pop())
