"""No guest can keep the loop from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.doorbells import Direct
from paravirt.hostside import Device, Request
from paravirt.hostside._loop import current_loop

from .serving import Echo, Hand, by_hand, served, settled, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock


class Flood(Direct):
    """A call doorbell at which a driver offers the next requests at once, as one beside us does."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0
        self.offer: Callable[[], None] = lambda: None
        self.made.append(self)

    made: list[Flood] = []  # noqa: RUF012  (the test clears it)

    def ring(self) -> None:
        super().ring()
        if self.left:
            self.left -= 1
            self.offer()


@pytest.fixture
def floods() -> list[Flood]:
    Flood.made.clear()
    return Flood.made


async def serve_beside(hand: Hand, flood: Flood, *, bad: bool) -> int:
    """Start a flood; return what was left of it when a request to another device was answered."""

    def offer() -> None:
        ring = hand.rings[0]
        ring.reap()
        while ring.add([(1 << 60 if bad else hand.link.pool[0], 1)]) is not None:
            pass
        hand.show()
        ring.arm()

    flood.left, flood.offer = 20_000, offer
    async with served(Echo()) as other:
        await other.driver.request(b"warm", 8)
        offer()
        await other.driver.request(b"x", 8)
        left = flood.left
        flood.left = 0
    return left


@pytest.mark.parametrize("bad", [False, True])
async def test_a_flood_does_not_starve_another_device(floods: list[Flood], bad: bool) -> None:
    async with by_hand(Echo(), call_doorbell=Flood) as hand:
        assert await serve_beside(hand, floods[0], bad=bad) > 10_000


async def test_a_flooded_queue_does_not_starve_another_of_its_device(floods: list[Flood]) -> None:
    class Two(Echo):
        queue_sizes = (16, 16)

    async with by_hand(Two(), call_doorbell=Flood) as hand:

        def offer() -> None:
            hand.rings[0].reap()
            while hand.rings[0].add([(hand.link.pool[0], 1)]) is not None:
                pass
            hand.show()
            hand.rings[0].arm()

        floods[0].left, floods[0].offer = 20_000, offer
        hand.offer(b"x", 8, queue=1)
        offer()
        hand.show(1)
        await until(lambda: hand.rings[1].pending())
        left, floods[0].left = floods[0].left, 0

    assert left > 10_000


class Storm(Direct):
    """A kick doorbell that rings for ever, as a driver may that has nothing to say."""

    async def wait(self) -> None:
        self.ring()
        await super().wait()


async def test_a_storm_of_kicks_does_not_starve_another_device() -> None:
    async with served(Echo(), Storm, call_doorbell=Direct), served(Echo()) as other:
        for _ in range(20):
            assert await other.driver.request(b"x", 8) == b"x"


class Costly(Device):
    """Spends 30 us a request, on a clock of its own; notes the order with others."""

    device_id = 42
    queue_sizes = (256,)

    def __init__(self, name: str, order: list[str]) -> None:
        self.name = name
        self.order = order
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def handle(self, request: Request) -> None:
        del request
        self.order.append(self.name)
        self.now += 30_000


async def test_a_batch_of_costly_requests_lets_others_run_in_between(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is up to 256 requests, which may take the loop for long."""
    order: list[str] = []
    costly = Costly("costly", order)
    async with by_hand(costly) as hand, by_hand(Costly("other", order)) as other:
        monkeypatch.setattr(current_loop(), "clock", costly.perf_counter_ns)
        for _ in range(200):
            hand.offer(b"")
        hand.show()
        await until(lambda: order != [])
        other.offer(b"")
        other.show()
        await settled()

    assert len(order) == 201
    assert order.index("other") < 100
