"""A device that is served, with a driver at the other end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
import trio.testing

from paravirt.doorbells import Direct
from paravirt.guestside import Driver
from paravirt.hostside import Device, Request, serve
from paravirt.transport import DriverRing, RingGeometry, Status, loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from paravirt.doorbells import DoorbellMaker
    from paravirt.transport import Faults, Loopback

settled = trio.testing.wait_all_tasks_blocked


class Echo(Device):
    """Reply with what was asked."""

    device_id = 42
    queue_sizes: Sequence[int] = (16,)

    def handle(self, request: Request) -> Awaitable[None] | None:
        request.reply(request.read())
        return None


class Parked(Device):
    """Answer each request with its own bytes once it was let go."""

    device_id = 42
    queue_sizes: Sequence[int] = (16,)

    def __init__(self) -> None:
        self.entered: list[bytes] = []
        self.left: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.gates: dict[bytes, trio.Event] = {}

    async def handle(self, request: Request) -> None:
        data = request.read()
        self.entered.append(data)
        gate = self.gates.setdefault(data, trio.Event())
        try:
            await gate.wait()
        except trio.Cancelled:
            self.cancelled.append(data)
            raise
        self.left.append(data)
        request.reply(data)

    def let_go(self, data: bytes) -> None:
        self.gates.setdefault(data, trio.Event()).set()


@dataclass
class Served:
    """What a test of a served device works with."""

    link: Loopback
    driver: Driver
    nursery: trio.Nursery

    @property
    def rings(self) -> int:
        """How often the device was kicked."""
        return self.link.kick(0).statistics().rings


@asynccontextmanager
async def served(
    device: Device,
    doorbell: DoorbellMaker = Direct,
    *,
    faults: Faults | None = None,
    call_doorbell: DoorbellMaker | None = None,
) -> AsyncGenerator[Served]:
    """Serve a device and bring it up; an error of the server comes out as a group."""
    link = loopback(device, doorbell=doorbell, call_doorbell=call_doorbell, faults=faults)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, device, link)
            async with Driver(link) as driver:
                yield Served(link, driver, nursery)
            link.close()
    finally:
        link.close()


@dataclass
class Outcome:
    """A server whose end is to be looked at."""

    error: BaseException | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    async def serve(
        self,
        device: Device,
        link: Loopback,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve, and keep what it raises."""
        try:
            await serve(device, link, task_status=task_status)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            self.error = error
        self.ended.set()


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    while not condition():
        await trio.lowlevel.checkpoint()


class Hand:
    """A driver that does step by step what it is told, honest or not."""

    def __init__(self, link: Loopback) -> None:
        self.link = link
        self.memory = link.memory
        self.rings: list[DriverRing] = []
        self._next = link.pool[0]

    async def begin(self) -> None:
        """Negotiate and set up all queues, without DRIVER_OK."""
        link = self.link
        await link.set_status(Status.ACKNOWLEDGE)
        await link.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
        await link.set_features(link.device_features)
        await link.set_status((await link.get_status()) | Status.FEATURES_OK)
        for index, size in enumerate(link.queue_sizes):
            where = self.place(RingGeometry.contiguous(size, 0).end)
            geometry = RingGeometry.contiguous(size, where, link.device_features)
            ring = DriverRing(link.memory, geometry)
            ring.concurrent = False
            self.rings.append(ring)
            await link.set_queue(index, size, geometry.desc, geometry.driver, geometry.device)

    async def go(self) -> None:
        """Say DRIVER_OK."""
        await self.link.set_status((await self.link.get_status()) | Status.DRIVER_OK)

    def place(self, size: int) -> int:
        """Return the address of so many bytes, on a page of their own."""
        address = self._next
        self._next += (size + 4095) & ~4095
        return address

    def offer(self, data: bytes, room: int = 0, queue: int = 0) -> int:
        """Add a request; `show` publishes it. Returns the address of its reply."""
        address = self.place(max(1, len(data) + room))
        self.memory.write(address, data)
        readable = [(address, len(data))] if data else []
        writable = [(address + len(data), room)] if room or not data else []
        assert self.rings[queue].add(readable, writable) is not None
        return address + len(data)

    def offer_bad(self, queue: int = 0) -> None:
        """Add a chain that lies outside of guest memory."""
        assert self.rings[queue].add([(1 << 60, 1)]) is not None

    def break_queue(self, queue: int = 0) -> None:
        """Move the available index by more than the queue is long (2.7.6.1)."""
        geometry = self.rings[queue].geometry
        index = self.rings[queue].indices[0] + geometry.size + 1
        self.memory.write(geometry.driver + 2, (index & 0xFFFF).to_bytes(2, "little"))
        self.link.kick(queue).ring()

    def show(self, queue: int = 0) -> None:
        """Publish what was added, and kick if asked to."""
        if self.rings[queue].publish():
            self.link.kick(queue).ring()

    def back(self, queue: int = 0) -> int:
        """Count the requests that came back since the last time."""
        return len(self.rings[queue].reap()) // 2


@asynccontextmanager
async def by_hand(
    device: Device,
    *,
    doorbell: DoorbellMaker = Direct,
    call_doorbell: DoorbellMaker | None = None,
    outcome: Outcome | None = None,
) -> AsyncGenerator[Hand]:
    """Serve a device to a driver that is moved by hand."""
    link = loopback(device, doorbell=doorbell, call_doorbell=call_doorbell)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start((outcome or Outcome()).serve if outcome else serve, device, link)
            hand = Hand(link)
            await hand.begin()
            await hand.go()
            for _ in range(20 + len(hand.rings)):  # not `settled`: polling never is
                await trio.lowlevel.checkpoint()
            yield hand
            link.close()
    finally:
        link.close()
