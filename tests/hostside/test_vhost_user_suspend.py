"""Queues that stop with requests in hand (GET_VRING_BASE_INFLIGHT), instead of waiting for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import Device, Request as Asked
from paravirt.hostside.vhost_user import Terms
from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import Dialect, ProtocolFeature, Request, payloads as p
from tests.hostside.frontend import DATA, Frontend, attached
from tests.hostside.kept import AGREED, collect, entered, hand_over, tracked
from tests.hostside.serving import Echo, Parked, settled

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable

BIT = 1 << 20
TERMS = Terms(
    also=ProtocolFeature.GET_VRING_BASE_INFLIGHT, dialect=Dialect(get_vring_base_inflight=20)
)


class Keeping(Device):
    """Takes its requests by itself, and keeps them."""

    device_id = 42
    queue_sizes = (16,)
    taken_queues = (0,)

    def __init__(self) -> None:
        self.entered: list[bytes] = []

    async def run(self, nursery: trio.Nursery) -> None:
        del nursery
        queue = self.queue(0)
        while True:
            try:
                self.entered.append((await queue.take()).read())
            except trio.ClosedResourceError:
                return


async def offer_two(frontend: Frontend, device: Parked) -> None:
    """Have the device take up two requests."""
    frontend.offer(b"one")
    frontend.offer(b"two", at=DATA + 64)
    await entered(device, 2)


async def go_on(frontend: Frontend) -> None:
    """Start the queue that was stopped."""
    await frontend.bell(Request.SET_VRING_KICK, frontend.queues[0].kick)


async def test_stop_leaves_in_hand_what_is_waited_for() -> None:
    device = Parked()
    async with tracked(device, terms=TERMS, also=BIT) as (frontend, _):
        await offer_two(frontend, device)

        assert await frontend.base() == 2
        assert sorted(device.cancelled) == [b"one", b"two"]
        assert not frontend.queues[0].ring.reap()


async def test_queue_that_goes_on_takes_up_what_the_stop_left() -> None:
    device = Parked()
    async with tracked(device, terms=TERMS, also=BIT) as (frontend, _):
        await offer_two(frontend, device)
        await frontend.base()
        await go_on(frontend)
        await entered(device, 4)
        device.let_go(b"one")
        device.let_go(b"two")

        assert sorted(await collect(frontend, 2)) == [0, 2]
        assert device.entered == [b"one", b"two"] * 2


async def test_next_backend_takes_up_what_the_stop_left() -> None:
    """What was answered before is not done again."""
    first, second = Parked(), Parked()
    async with (
        trio.open_nursery() as nursery,
        tracked(first, terms=TERMS, also=BIT) as (frontend, kept),
    ):
        await offer_two(frontend, first)
        first.let_go(b"one")
        await collect(frontend, 1)
        await frontend.base()
        await hand_over(frontend, kept, second, nursery)
        await entered(second, 1)
        second.let_go(b"two")

        assert await collect(frontend, 1) == [2]
        assert second.entered == [b"two"]
        frontend.close()


async def test_stop_right_after_a_start_says_where_the_driver_is() -> None:
    """Although not all that was left in hand may have been taken up."""
    device = Parked()
    device.concurrency = 1
    async with tracked(device, terms=TERMS, also=BIT) as (frontend, _):
        frontend.offer(b"one")
        frontend.offer(b"two", at=DATA + 64)
        await entered(device, 1)
        bases = [await frontend.base()]
        await go_on(frontend)
        bases.append(await frontend.base())

        assert bases == [2, 2]


async def test_queue_that_is_disabled_leaves_it_in_hand_as_well() -> None:
    """QEMU disables a queue before it asks for its base."""
    device = Parked()
    async with tracked(device, terms=TERMS, also=BIT) as (frontend, _):
        await offer_two(frontend, device)
        await frontend.enable(frontend.queues[0], on=False)
        assert sorted(device.cancelled) == [b"one", b"two"]
        await frontend.enable(frontend.queues[0])
        await entered(device, 4)

        assert device.entered == [b"one", b"two"] * 2


class Dawdling(Device):
    """Answers each request with its own bytes, after a while or at once."""

    device_id = 42
    queue_sizes = (16,)

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def handle(self, request: Asked) -> Awaitable[None] | None:
        if self._rng.random() < 0.5:
            request.reply(request.read())
            return None
        return self._later(request)

    async def _later(self, request: Asked) -> None:
        data = request.read()
        for _ in range(self._rng.randrange(20)):
            await trio.lowlevel.checkpoint()
        request.reply(data)


async def test_every_request_is_answered_once_however_often_the_queue_stops(
    rng: random.Random,
) -> None:
    at = {DATA + 256 * number: b"%4d" % number for number in range(200)}
    left = iter(at.items())
    due: dict[int, tuple[int, bytes]] = {}
    async with tracked(Dawdling(rng), terms=TERMS, also=BIT) as (frontend, _):
        queue, memory = frontend.queues[0], frontend.memory
        answered = 0
        while answered < len(at):
            while len(due) < rng.randrange(1, 8) and (one := next(left, None)) is not None:
                address, data = one
                memory.write(address, data)
                head = queue.ring.add([(address, 4)], [(address + 4, 4)])
                assert head is not None
                due[head] = address, data
            queue.ring.publish()
            queue.kick.ring()
            for _ in range(rng.randrange(10)):
                await trio.lowlevel.checkpoint()
            if rng.random() < 0.5:
                await frontend.enable(queue, on=False)
                await frontend.enable(queue)
            else:
                base = await frontend.base()
                await frontend.ask(Request.SET_VRING_BASE, p.VringState(0, base))
                await go_on(frontend)
            for head in queue.ring.reap()[::2]:
                address, data = due.pop(head)
                assert memory.read(address + 4, 4) == data
                answered += 1

    assert not due


async def test_device_that_takes_by_itself_is_not_waited_for() -> None:
    device = Keeping()
    async with tracked(device, terms=TERMS, also=BIT) as (frontend, _):
        for _ in range(2):
            frontend.offer(b"hello")
            while not device.entered:
                await trio.lowlevel.checkpoint()
            assert await frontend.base() > 0
            device.entered.clear()
            await go_on(frontend)


@pytest.mark.parametrize("also", [0, BIT])
async def test_stop_waits_for_what_would_be_lost(also: int) -> None:
    """Without the feature, and without a file to keep it in."""
    device = Parked()
    async with attached(device, terms=TERMS) as frontend, trio.open_nursery() as nursery:
        await frontend.agree(int(AGREED) | also)
        await frontend.bring_up()
        await offer_two(frontend, device)
        nursery.start_soon(frontend.base)
        await settled()
        assert not device.cancelled
        device.let_go(b"one")
        device.let_go(b"two")

        assert sorted(await collect(frontend, 2)) == [0, 2]


async def test_feature_is_refused_without_inflight_descriptors() -> None:
    async with attached(Echo(), terms=TERMS) as frontend:
        await frontend.agree(int(ProtocolFeature.REPLY_ACK))
        with pytest.raises(NegotiationError):
            await frontend.ask(Request.SET_PROTOCOL_FEATURES, p.Number(BIT))
