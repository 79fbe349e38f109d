"""One queue: requests that are taken, turns and their budget, and when looking pays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import Device, Request
from paravirt.transport import Faults
from tests.transport.hand_ring import INDIRECT, NEXT, descriptor

from .serving import Echo, Hand, Parked, by_hand, served, settled

if TYPE_CHECKING:
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
