"""Devices that tests drive, and a loopback to one that is served."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import Direct, DoorbellMaker
from paravirt.hostside import Device, Request, serve
from paravirt.transport import U32, ConfigSpace, Faults, Loopback, NegotiationError, loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from paravirt.guestside import Driver


class Upper(Device):
    """Answers in capitals, at once."""

    device_id = 42

    def __init__(self, *queue_sizes: int) -> None:
        self.queue_sizes = queue_sizes or (16,)

    def handle(self, request: Request) -> None:
        request.reply(request.read().upper())


class ByHand(Device):
    """Answers when the test does: `next` gives it the requests, in the order they came."""

    device_id = 42
    taken_queues: Sequence[int] = (0,)

    def __init__(self, *queue_sizes: int) -> None:
        self.queue_sizes = queue_sizes or (8,)
        self.taken_queues = range(len(self.queue_sizes))
        self.came, self._requests = trio.open_memory_channel[Request](1 << 20)

    async def run(self, nursery: trio.Nursery) -> None:
        for index in self.taken_queues:
            nursery.start_soon(self._collect, index)

    async def _collect(self, index: int) -> None:
        queue = self.queue(index)
        while True:
            self.came.send_nowait(await queue.take())

    async def next(self) -> Request:
        return await self._requests.receive()

    async def several(self, count: int) -> list[Request]:
        return [await self.next() for _ in range(count)]

    @property
    def waiting(self) -> int:
        """Requests that came and were not asked for yet."""
        return self.came.statistics().current_buffer_used


class Level(ConfigSpace, frozen=True):
    level: U32 = 0
    limit: U32 = 100


class Tank(Upper):
    """Has a configuration space; the driver may write a level up to the limit."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Level()

    def config_written(self, offset: int, data: bytes) -> None:
        level = int.from_bytes(data, "little")
        if offset != Level.offset_of("level") or level > 100:
            raise NegotiationError(f"no level: {level} at {offset}")
        self.config = Level(level)


async def turns(count: int = 20) -> None:
    """Let everybody run for a while. With polling nobody ever sleeps, so that is all one can do."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def served(
    device: Device,
    *,
    doorbell: DoorbellMaker = Direct,
    call_doorbell: DoorbellMaker | None = None,
    features: int = ~0,
    memory_size: int = 1 << 20,
    faults: Faults | None = None,
) -> AsyncGenerator[Loopback, None]:
    """Serve a device inside this process until the block is left."""
    link = loopback(
        device,
        doorbell=doorbell,
        call_doorbell=call_doorbell,
        features=features,
        memory_size=memory_size,
        faults=faults,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        try:
            yield link
        finally:
            link.close()


class _AtStep(trio.abc.Instrument):
    """Cancels when a task goes on for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, steps: int, scope: trio.CancelScope) -> None:
        self._task = task
        self._steps = steps
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._steps -= 1
            if self._steps == 0:
                self._scope.cancel()


@contextmanager
def cancelled_at(steps: int) -> Generator[trio.CancelScope, None, None]:
    """Cancel the block once its task was resumed so many times; 0 cancels it before it begins."""
    with trio.CancelScope() as scope:
        if steps == 0:
            scope.cancel()
        instrument = _AtStep(trio.lowlevel.current_task(), steps, scope)
        trio.lowlevel.add_instrument(instrument)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(instrument)


async def check_service(driver: Driver, device: ByHand) -> None:
    """Check that a request is answered, whatever came before it."""
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            assert await driver.request(b"new", 3) == b"yes"

        nursery.start_soon(ask)
        while (request := await device.next()).read() != b"new":
            pass  # from before the reset
        request.reply(b"yes")


async def hear(
    error: type[Exception], driver: Driver, data: bytes = b"x", size: int = 1, queue: int = 0
) -> None:
    """Send a request that gets no reply but an error."""
    with pytest.raises(error):
        await driver.request(data, size, queue)


def hold_up(nursery: trio.Nursery, error: type[Exception], driver: Driver, queue: int = 0) -> None:
    """Start every way of waiting on a queue; more of them than it has room for."""
    for _ in range(12):
        nursery.start_soon(hear, error, driver, b"x", 1, queue)

    async def hear_many() -> None:
        with pytest.raises(error):
            await driver.request_many([(b"x", 1)] * 12, queue)

    nursery.start_soon(hear_many)
