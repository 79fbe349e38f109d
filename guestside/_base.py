"""What the driver inside trio and the one without it share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

import msgspec
import trio

from paravirt.transport import ConfigSpace, PeerError

from ._negotiation import finish, negotiate, reset, set_up_queues
from ._pool import BufferPool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from paravirt.transport.link import DriverLink

    from ._client import Client

__all__ = ("DriverQueueStatistics",)

ConfigT = TypeVar("ConfigT", bound=ConfigSpace)


class DriverQueueStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One queue, since the driver was last reset."""

    queue: int
    """Its index."""
    size: int
    """Its descriptors."""
    requests: int
    """Requests sent."""
    kicks: int
    """Times that the device was rung."""
    in_flight: int
    """Requests that the device has now."""


class DriverBase:
    """Negotiation, queues and configuration, without a way of waiting."""

    device_id: ClassVar[int | None] = None
    """The device type that this driver is for; None for any."""
    wanted_features: ClassVar[int] = 0
    """Feature bits of the device type that this driver understands."""

    def __init__(self, link: DriverLink, *, queue_size: int | None = None) -> None:
        """Make a driver for the device behind a link; `queue_size` limits what is used of a queue.

        Raises `ValueError` for a size that is no power of two.
        """
        if queue_size is not None and (queue_size < 1 or queue_size & (queue_size - 1)):
            raise ValueError(f"a queue of {queue_size}: need a power of two")
        self.link = link
        self.features = 0
        """What was negotiated; 0 before."""
        self._queue_size = queue_size
        self._pool = BufferPool(link.memory, *link.pool)
        self._clients: list[Client] = []
        self._generation: int | None = None
        self._open = False

    @property
    def queues(self) -> int:
        """How many queues the device has."""
        return len(self._clients)

    @property
    def free_memory(self) -> int:
        """Bytes of the shared memory that no queue and no request has."""
        return self._pool.free

    def statistics(self) -> list[DriverQueueStatistics]:
        """Return what happened on each queue since the last reset."""
        return [
            DriverQueueStatistics(
                queue=index,
                size=client.ring.geometry.size,
                requests=client.requests,
                kicks=client.kicks,
                in_flight=client.ring.in_flight,
            )
            for index, client in enumerate(self._clients)
        ]

    def submit(self, data: bytes, reply_size: int = 0, queue: int = 0) -> int:
        """Send a request without waiting; returns the number that `reap` gives with its reply.

        Raises `trio.WouldBlock` if the queue or the shared memory is full, `ValueError` for a
        request that never fits, and `trio.BusyResourceError` while somebody uses `request` on it.
        """
        client = self._client(queue, submitting=True)
        client.check_sizes([(data, reply_size)])
        made = client.submit([(data, reply_size)])
        if not made:
            raise trio.WouldBlock
        return client.note_submitted(made[0])

    async def _prepare(self) -> None:
        """Do what this type of driver does before DRIVER_OK (3.1.1, step 7), without queues."""

    async def _bring_up(self, wait_changed: Callable[[], Awaitable[None]]) -> None:
        """Reset and negotiate. Nobody may use the old queues any more: the new take their place."""
        await reset(self.link, wait_changed)
        self.features = await negotiate(self.link, self.device_id, self.wanted_features)
        clients = await set_up_queues(self.link, self._pool, self.features, self._queue_size)
        await self._prepare()
        await finish(self.link)
        self._clients = clients
        self._open = True

    async def _take_down(self, wait_changed: Callable[[], Awaitable[None]]) -> None:
        try:
            await reset(self.link, wait_changed)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the device's end went first; nothing is left to reset

    def _end(self, *, closing: bool) -> None:
        """Let everybody know who waits or comes, before a reset."""
        self._check_open()
        self._open = not closing
        text = "the driver was closed" if closing else "the device was reset"
        error = trio.ClosedResourceError if closing else trio.BrokenResourceError
        for client in self._clients:
            client.fail(error(text))

    async def _read_config(self, kind: type[ConfigT]) -> ConfigT:
        """Read until no change came in between (2.5.1)."""
        size = kind.wire_size()
        _, before = await self.link.read_config(0, size)
        while True:
            data, generation = await self.link.read_config(0, size)
            if generation == before:
                self._generation = generation
                return kind.from_bytes(data)
            before = generation

    async def _config_changed(self, wait_changed: Callable[[], Awaitable[None]]) -> None:
        while (await self.link.read_config(0, 0))[1] == self._generation:
            await wait_changed()

    def _check_open(self) -> None:
        if not self._open:
            raise trio.ClosedResourceError("the driver is not open: use it in a `with` block")

    def _client(self, queue: int, *, submitting: bool) -> Client:
        self._check_open()
        if not 0 <= queue < len(self._clients):
            raise ValueError(f"queue {queue}: the device has {len(self._clients)}")
        client = self._clients[queue]
        if client.waiting if submitting else client.submitted:
            client.check()
            raise trio.BusyResourceError(
                f"queue {queue} is used by {'request' if submitting else 'submit'} now: not by both"
            )
        return client

    def _reap(self, client: Client) -> None:
        """Take what came, and note what ends the queue."""
        try:
            client.reap()
        except PeerError as error:
            client.fail(error)
        if self.link.gone:
            client.fail(trio.BrokenResourceError("the device is not served any more"))
