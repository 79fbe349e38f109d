"""One queue: requests that are taken, turns and their budget, and when looking pays."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import Direct
from paravirt.hostside import Device, Request, serve
from paravirt.transport import Faults, Loopback
from paravirt.transport.link import QueueStop
from tests.transport.hand_ring import INDIRECT, NEXT, descriptor

from .serving import Echo, Hand, Parked, by_hand, served, settled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio.testing import MockClock


# A pool of nodes that runs out: at this size after 8 chains as long as they may be.

SIZE = 512


class Long(Parked):
    queue_sizes = (SIZE,)


class LongTaker(Device):
    device_id = 42
    queue_sizes = (SIZE,)
    taken_queues = (0,)


async def test_a_queue_goes_on_when_stalled_chains_find_room(autojump_clock: MockClock) -> None:
    """Chains for which there are no nodes wait in the ring until others were completed."""
    device = Long()
    async with by_hand(device) as hand:
        offer_long_chains(hand, 20)
        await settled()
        assert len(device.entered) == 8
        device.let_go(device.entered[0])
        await settled()
        assert len(device.left) == 1
        while len(device.left) < 20:
            for data in device.entered:
                device.let_go(data)
            with trio.fail_after(1):
                await settled()

        assert hand.back() == 20


async def test_a_stalled_queue_that_is_taken_from_can_be_stopped(
    autojump_clock: MockClock,
) -> None:
    device = LongTaker()
    taken: list[Request] = []
    async with by_hand(device) as hand, trio.open_nursery() as nursery:
        offer_long_chains(hand, 20)
        nursery.start_soon(take_all, device, taken)
        await settled()
        assert len(taken) == 8
        device.queue(0).stop()


async def take_all(device: Device, taken: list[Request]) -> None:
    while True:
        try:
            taken.append(await device.queue(0).take())
        except trio.ClosedResourceError:
            break


def offer_long_chains(hand: Hand, count: int) -> None:
    """Offer chains in indirect tables as long as the queue (2.7.5.3.1), a byte a descriptor."""
    ring = hand.rings[0]
    for number in range(count):
        data = hand.place(SIZE)
        hand.memory.write(data, number.to_bytes(4, "little") * (SIZE // 4))
        more = [descriptor(data + i, 1, NEXT, i + 1) for i in range(SIZE - 1)]
        table = hand.place(16 * SIZE)
        hand.memory.write(table, b"".join([*more, descriptor(data + SIZE - 1, 1)]))
        head = ring.add([(table, 16 * SIZE)])
        assert head is not None
        indirect = descriptor(table, 16 * SIZE, INDIRECT)
        hand.memory.write(ring.geometry.desc + 16 * head, indirect)
    hand.show()


# A device that stops in mid-batch.


async def test_a_limit_on_the_ring_is_a_stop_in_mid_batch(autojump_clock: MockClock) -> None:
    """`DeviceRing.limit`: it takes so many more chains, and none until the limit is lifted."""
    device = Parked()
    async with served(device) as it:
        await settled()
        ring = it.link.ring(0)
        assert ring is not None
        ring.limit = 2
        for i in range(5):
            it.driver.submit(b"%d" % i, 8)
        await settled()
        assert device.entered == [b"0", b"1"]
        ring.limit = None
        it.link.kick(0).ring()
        await settled()

        assert len(device.entered) == 5


async def test_a_device_that_stops_loses_nothing(autojump_clock: MockClock) -> None:
    faults = Faults(delay=5)
    async with served(Echo(), faults=faults) as it:
        faults.stop_next("kick")
        began = trio.current_time()
        requests = [(b"%d" % i, 8) for i in range(16)]
        replies = await it.driver.request_many(requests)

        assert replies == [data for data, _ in requests]
        assert trio.current_time() - began == pytest.approx(5)


# Stop.


class Stoppable(Loopback):
    """A link whose driver's side stops single queues, as vhost-user's does."""

    def stop_queue(self, queue: int) -> trio.Event:
        stopped = trio.Event()
        self._change(QueueStop(queue, stopped.set))
        return stopped


@asynccontextmanager
async def stoppable(device: Device) -> AsyncGenerator[tuple[Stoppable, Hand]]:
    link = Stoppable(device, Direct, Direct, ~0, 1 << 20, None)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        hand = Hand(link)
        await hand.begin()
        await hand.go()
        await settled()
        yield link, hand
        link.close()


async def test_a_queue_is_stopped_when_all_that_it_took_is_completed(
    autojump_clock: MockClock,
) -> None:
    device = Parked()
    async with stoppable(device) as (link, hand):
        hand.offer(b"taken", 8)
        hand.show()
        await settled()
        stopped = link.stop_queue(0)
        await settled()
        assert not stopped.is_set()
        device.let_go(b"taken")
        await settled()

        assert stopped.is_set()
        assert hand.back() == 1
        assert device.cancelled == []


async def test_a_queue_that_was_stopped_is_not_touched(autojump_clock: MockClock) -> None:
    device = Parked()
    async with stoppable(device) as (link, hand):
        await link.stop_queue(0).wait()
        before = hand.memory.read(*link.pool)
        hand.link.kick(0).ring()
        await settled()

        assert hand.memory.read(*link.pool) == before
        with pytest.raises(RuntimeError, match="not started"):
            device.queue(0)


async def test_another_queue_goes_on_when_one_is_stopped(autojump_clock: MockClock) -> None:
    class Two(Echo):
        queue_sizes = (4, 4)

    async with stoppable(Two()) as (link, hand):
        await link.stop_queue(0).wait()
        hand.offer(b"on", 8, queue=1)
        hand.show(1)
        await settled()

        assert hand.back(1) == 1


async def test_a_queue_that_is_taken_from_is_stopped_by_the_last_reply(
    autojump_clock: MockClock,
) -> None:
    device = LongTaker()
    async with stoppable(device) as (link, hand):
        for _ in range(2):
            hand.offer(b"x", 8)
        hand.show()
        taken = [await device.queue(0).take() for _ in range(2)]
        stopped = link.stop_queue(0)
        await settled()
        taken[0].reply()
        await settled()
        assert not stopped.is_set()
        taken[1].reply()
        await settled()

        assert stopped.is_set()
        assert hand.back() == 2


async def test_a_broken_queue_can_be_stopped(autojump_clock: MockClock) -> None:
    async with stoppable(Echo()) as (link, hand):
        hand.break_queue()
        await settled()
        with trio.fail_after(1):
            await link.stop_queue(0).wait()


async def test_a_request_of_a_queue_that_broke_and_was_stopped_is_void(
    autojump_clock: MockClock,
) -> None:
    device = LongTaker()
    async with stoppable(device) as (link, hand):
        where = hand.offer(b"x", 4)
        hand.show()
        request = await device.queue(0).take()
        hand.break_queue()
        with trio.move_on_after(1):
            await device.queue(0).take()
        await link.stop_queue(0).wait()
        request.reply(b"late")

        assert hand.memory.read(where, 4) == b"\0\0\0\0"


async def test_a_bug_is_found_although_a_queue_was_stopped(autojump_clock: MockClock) -> None:
    """The queue that is left is the only one to be waited for."""

    class Two(Echo):
        queue_sizes = (4, 4)

        def handle(self, request: Request) -> None:
            raise ZeroDivisionError(request.id)

    with pytest.RaisesGroup(ZeroDivisionError):
        async with stoppable(Two()) as (link, hand):
            await link.stop_queue(0).wait()
            hand.offer(b"x", 8, queue=1)
            hand.show(1)
            await trio.sleep_forever()


async def test_a_stopped_queue_completes_what_it_took_and_takes_no_more(
    autojump_clock: MockClock,
) -> None:
    device = Parked()
    async with served(device) as it:
        it.driver.submit(b"taken", 8)
        await settled()
        device.queue(0).stop()
        it.driver.submit(b"late", 8)
        await settled()
        assert device.entered == [b"taken"]
        device.let_go(b"taken")
        assert await it.driver.reap() == [(1, b"taken")]
        await settled()

        assert device.entered == [b"taken"]
        assert device.statistics().queues[0].in_flight == 0


async def test_a_handler_that_replies_after_the_stop_is_heard(autojump_clock: MockClock) -> None:
    """Nobody else is there any more who would show it."""

    class Stops(Device):
        device_id = 42
        queue_sizes = (16,)

        def __init__(self) -> None:
            self.gate = trio.Event()

        async def handle(self, request: Request) -> None:
            if request.read() == b"stop":
                self.queue(0).stop()
            else:
                await self.gate.wait()
                request.reply(b"heard")
                await trio.sleep_forever()

    device = Stops()
    async with by_hand(device) as hand:
        hand.offer(b"wait", 8)
        hand.offer(b"stop", 8)
        hand.show()
        await settled()
        assert hand.back() == 1
        device.gate.set()
        await settled()

        assert hand.back() == 1
