"""The driver of any device, inside trio."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

import trio

from paravirt.doorbells import wait_for_work

from ._base import ConfigT, DriverBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from paravirt.transport.link import DriverLink

    from ._client import Client, Outstanding

BATCH = 256  # requests offered at once: a full queue of the usual size


class Driver(DriverBase):
    """A driver for use inside trio.

        async with Driver(link) as driver:
            reply = await driver.request(b"hello", reply_size=5)

    Entering negotiates (3.1.1), leaving resets the device. There is no background task: whoever
    waits first takes the replies for all, and hands over when it leaves.

    What waits raises `trio.BrokenResourceError` when the device's end is gone or was reset, and
    `DeviceNeedsReset` when the device says that it goes on only after `reset`.
    """

    def __init__(self, link: DriverLink, *, queue_size: int | None = None) -> None:
        super().__init__(link, queue_size=queue_size)
        self._change_awaited: trio.Event | None = None
        self._resetting = trio.Lock()
        self._resets = 0

    async def __aenter__(self) -> Self:
        """Negotiate. Raises `NegotiationError`; cancelled, the device is not ready."""
        await self._bring_up(self._changed)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Reset the device if it is still there, even when cancelled."""
        with trio.CancelScope(shield=True):
            async with self._resetting:
                self._end(closing=True)
                await self._leave()
                await self._take_down(self._changed)

    @trio.lowlevel.enable_ki_protection
    async def request(self, data: bytes, reply_size: int = 0, queue: int = 0) -> bytes:
        """Send `data` and return the reply, `reply_size` bytes of it at most.

        Waits while the queue is full. Cancelled while it waits for room, it had no effect; later,
        the device may carry it out still, and its buffers stay the device's until then.

        Raises `ValueError` for a request that never fits, `trio.BusyResourceError` while the queue
        is used by `submit`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        client = self._client(queue, submitting=False)
        client.check_sizes([(data, reply_size)])
        one: Outstanding | None = None
        client.waiting += 1
        try:
            while not (made := client.submit([(data, reply_size)])):
                await self._until_room(client)
            one = made[0]
            await self._until_answered(client, one)
            assert one.reply is not None
            return one.reply
        finally:
            client.waiting -= 1
            if one is not None:
                one.dropped = True

    @trio.lowlevel.enable_ki_protection
    async def request_many(
        self, requests: Iterable[tuple[bytes, int]], queue: int = 0
    ) -> list[bytes]:
        """Send many requests, each its data and reply size, keeping the queue full.

        Returns the replies in order. Cancelled, no further ones are sent; those that were sent may
        be carried out still. Raises as `request` does, `ValueError` before it sends any.
        """
        await trio.lowlevel.checkpoint()
        client = self._client(queue, submitting=False)
        todo = list(requests)
        client.check_sizes(todo)
        made: list[Outstanding] = []
        replies: list[bytes] = []
        client.waiting += 1
        try:
            while len(replies) < len(todo):
                while new := client.submit(todo[len(made) : len(made) + BATCH]):
                    made += new
                if len(replies) == len(made):
                    await self._until_room(client)
                    continue
                await self._until_answered(
                    client, made[len(replies)], or_room=len(made) < len(todo)
                )
                while len(replies) < len(made) and (reply := made[len(replies)].reply) is not None:
                    replies.append(reply)
        finally:
            client.waiting -= 1
            for one in made[len(replies) :]:
                one.dropped = True
        return replies

    @trio.lowlevel.enable_ki_protection
    async def reap(self, queue: int = 0) -> list[tuple[int, bytes]]:
        """Wait for replies to what was submitted: at least one, or none if nothing is out.

        Cancelled, it has taken none.
        """
        await trio.lowlevel.checkpoint()
        client = self._client(queue, submitting=True)

        def done() -> bool:
            return bool(client.finished) or not client.submitted

        await self._until(client, done, room=True)
        return client.take_finished()

    async def reset(self) -> None:
        """Reset the device and negotiate anew; requests that are out raise.

        Called by several tasks at once, the device is reset once. Cancelled, the device is not
        ready, and `reset` is to be called again.
        """
        before = self._resets
        async with self._resetting:
            if self._resets == before:
                self._end(closing=False)
                await self._leave()
                await self._bring_up(self._changed)
                self._resets += 1

    async def read_config(self, kind: type[ConfigT]) -> ConfigT:
        """Read the configuration space, whole and of one moment (2.5.1).

        Cancelled, it had no effect: `config_changed` still waits from the read before.
        """
        return await self._read_config(kind)

    async def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space. Raises `NegotiationError` if the device refuses.

        Cancelled, the device may have taken it, or take it still.
        """
        await self.link.write_config(offset, data)

    async def config_changed(self) -> None:
        """Wait until the configuration space is another than `read_config` read last.

        Cancelled, no change is missed: the next call returns at once if there was one.
        """
        await self._config_changed(self._changed)

    async def _changed(self) -> None:
        """Wait for a change notification; any number of tasks may. May return for nothing."""
        if self._change_awaited is not None:
            await self._change_awaited.wait()
            return
        self._change_awaited = trio.Event()
        try:
            await self.link.changed.wait()
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("the device is not served any more") from None
        finally:
            self._change_awaited.set()
            self._change_awaited = None

    async def _leave(self) -> None:
        """Wait until nobody looks at the rings any more: a reset puts others in their place."""
        while any(client.reaper is not None for client in self._clients):
            await trio.lowlevel.checkpoint()

    async def _until_answered(
        self, client: Client, one: Outstanding, *, or_room: bool = False
    ) -> None:
        one.task = trio.lowlevel.current_task()
        seen = client.returned

        def done() -> bool:
            return one.reply is not None or (or_room and client.returned != seen)

        await self._until(client, done, room=or_room)

    async def _until_room(self, client: Client) -> None:
        """Wait until it may be possible to send what could not be sent just now."""
        client.pass_on()
        if not client.starved or len(self._clients) == 1:
            await self._until_returned(client, client.returned)
            return
        # All queues share the memory.
        busy = [each for each in self._clients if each.ring.in_flight and not each.failure]
        if not busy:
            raise MemoryError("a queue that broke has the shared memory, until a reset")
        async with trio.open_nursery() as nursery:
            for each in busy:
                nursery.start_soon(self._try_until_returned, each, each.returned, nursery)

    async def _try_until_returned(self, client: Client, seen: int, nursery: trio.Nursery) -> None:
        with suppress(Exception):  # another queue's trouble; the own queue's shows soon
            await self._until_returned(client, seen)
        nursery.cancel_scope.cancel()

    async def _until_returned(self, client: Client, seen: int) -> None:
        await self._until(client, lambda: client.returned != seen, room=True)

    async def _until(self, client: Client, done: Callable[[], bool], *, room: bool = False) -> None:
        """Wait until `done`; one caller reaps for all. May return without a checkpoint."""
        if done():
            return
        task = trio.lowlevel.current_task()
        try:
            while not done():
                client.check()
                if client.reaper is None:
                    client.reaper = task
                if client.reaper is not task:
                    await self._sleep(client, room)
                    continue
                try:
                    await wait_for_work(client.call, client.watched)
                    self._reap(client)
                except trio.ClosedResourceError:
                    self._reap(client)  # what was answered before the end
                    client.fail(trio.BrokenResourceError("the device is not served any more"))
        finally:
            if client.reaper is task:
                client.hand_over()

    async def _sleep(self, client: Client, room: bool) -> None:
        task = trio.lowlevel.current_task()
        client.sleeping[task] = client.returned if room else None

        def leave(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            del client.sleeping[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
