"""The driver of any device, for a thread that runs no trio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import trio

from paravirt.doorbells import Direct, wait_for_work_blocking

from ._base import ConfigT, DriverBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from ._client import Client, Outstanding

BATCH = 256  # requests offered at once: a full queue of the usual size
TURN = 0.001  # seconds to wait at one queue, when any of several may end the wait


class SyncDriver(DriverBase):
    """`Driver` without `await`, for a thread of its own; the device is served in another.

        with SyncDriver(link) as driver:
            reply = driver.request(b"hello", reply_size=5)

    What waits raises the same as with `Driver`.
    """

    def __enter__(self) -> Self:
        """Negotiate. Raises `NegotiationError`.

        Raises `RuntimeError`, before it touches the device, inside trio and for a link with a
        `Direct` doorbell: the device could not be served while this thread waits.
        """
        if trio.lowlevel.in_trio_run():
            raise RuntimeError("a SyncDriver would stop the trio run it is used in: use Driver")
        queues = range(len(self.link.queue_sizes))
        bells = [self.link.changed, *map(self.link.kick, queues), *map(self.link.call, queues)]
        if any(bell.name == Direct.name for bell in bells):
            raise RuntimeError("a Direct doorbell stays in one thread: use EventFd for SyncDriver")
        trio.run(self._bring_up, self._changed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Reset the device if it is still there."""
        self._end(closing=True)
        trio.run(self._take_down, self._changed)

    def request(self, data: bytes, reply_size: int = 0, queue: int = 0) -> bytes:
        """Send `data` and return the reply, `reply_size` bytes of it at most.

        Raises `ValueError` for a request that never fits, `trio.BusyResourceError` while the queue
        is used by `submit`.
        """
        (reply,) = self.request_many([(data, reply_size)], queue)
        return reply

    def request_many(self, requests: Iterable[tuple[bytes, int]], queue: int = 0) -> list[bytes]:
        """Send many requests, each its data and reply size, keeping the queue full.

        Returns the replies in order. Raises as `request` does, `ValueError` before it sends any.
        """
        client = self._client(queue, submitting=False)
        todo = list(requests)
        client.check_sizes(todo)
        made: list[Outstanding] = []
        replies: list[bytes] = []
        try:
            while len(replies) < len(todo):
                while new := client.submit(todo[len(made) : len(made) + BATCH]):
                    made += new
                if len(replies) == len(made):
                    self._until_room(client)
                    continue
                self._until_answered(client, made[len(replies)], or_room=len(made) < len(todo))
                while len(replies) < len(made) and (reply := made[len(replies)].reply) is not None:
                    replies.append(reply)
        finally:
            for one in made[len(replies) :]:
                one.dropped = True
        return replies

    def reap(self, queue: int = 0) -> list[tuple[int, bytes]]:
        """Wait for replies to what was submitted: at least one, or none if nothing is out."""
        client = self._client(queue, submitting=True)
        self._until(client, lambda: bool(client.finished) or not client.submitted)
        return client.take_finished()

    def reset(self) -> None:
        """Reset the device and negotiate anew; what was submitted is lost."""
        self._end(closing=False)
        trio.run(self._bring_up, self._changed)

    def read_config(self, kind: type[ConfigT]) -> ConfigT:
        """Read the configuration space, whole and of one moment (2.5.1)."""
        return trio.run(self._read_config, kind)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space. Raises `NegotiationError` if the device refuses."""
        trio.run(self.link.write_config, offset, data)

    def config_changed(self) -> None:
        """Wait until the configuration space is another than `read_config` read last."""
        trio.run(self._config_changed, self._changed)

    async def _changed(self) -> None:
        try:
            await self.link.changed.wait()
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("the device is not served any more") from None

    def _until_answered(self, client: Client, one: Outstanding, *, or_room: bool) -> None:
        seen = client.returned
        self._until(client, lambda: one.reply is not None or (or_room and client.returned != seen))

    def _until_room(self, client: Client) -> None:
        """Wait until it may be possible to send what could not be sent just now."""
        # All queues share the memory.
        busy = [each for each in self._clients if each.ring.in_flight and not each.failure]
        if not busy:
            raise MemoryError("a queue that broke has the shared memory, until a reset")
        before = [each.returned for each in busy]
        while client.failure is None and before == [each.returned for each in busy]:
            for each in busy:
                self._look(each, None if len(busy) == 1 else TURN)

    def _until(self, client: Client, done: Callable[[], bool]) -> None:
        while not done():
            client.check()
            self._look(client)

    def _look(self, client: Client, timeout: float | None = None) -> None:
        """Wait for replies, and take them."""
        try:
            wait_for_work_blocking(client.call, client.watched, timeout)
        except trio.ClosedResourceError:
            self._reap(client)  # what was answered before the end
            client.fail(trio.BrokenResourceError("the device is not served any more"))
        else:
            self._reap(client)
