"""When completions are shown to the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
import trio

from paravirt.hostside import Device, Request
from paravirt.hostside._loop import current_loop

from .serving import Echo, by_hand, settled, until

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from trio.testing import MockClock


class Slow(Device):
    """Spends `costs` nanoseconds a request, on a clock of its own."""

    device_id = 42
    queue_sizes = (256,)
    replies: ClassVar[bool] = True

    def __init__(self, costs: int) -> None:
        self.costs = costs
        self.now = 0
        self.shown: list[int] = []
        """For each request how many before it were not shown when it began."""

    def perf_counter_ns(self) -> int:
        return self.now

    def handle(self, request: Request) -> Awaitable[None] | None:
        assert self.server is not None
        hidden = len(self.shown) - self.queue(0).ring.statistics().completed
        self.shown.append(hidden)
        self.now += self.costs
        if self.replies:
            request.reply(b"")
        return None


class SlowAndSilent(Slow):
    replies = False


async def serve_slowly(device: Slow, monkeypatch: pytest.MonkeyPatch, count: int) -> int:
    """Serve requests that came together; returns the calls for them."""
    async with by_hand(device) as hand:
        monkeypatch.setattr(current_loop(), "clock", device.perf_counter_ns)
        for _ in range(count):
            hand.offer(b"")
        hand.show()
        await until(lambda: len(device.shown) == count)
        await settled()
        assert hand.back() == count
        return device.statistics().queues[0].calls


@pytest.mark.parametrize("kind", [Slow, SlowAndSilent])
async def test_completions_are_shown_after_50_us_of_handler_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, kind: type[Slow]
) -> None:
    device = kind(10_000)
    await serve_slowly(device, monkeypatch, 64)

    assert max(device.shown) <= 5


@pytest.mark.parametrize("kind", [Slow, SlowAndSilent])
async def test_a_slow_handler_shows_each(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, kind: type[Slow]
) -> None:
    device = kind(60_000)
    await serve_slowly(device, monkeypatch, 64)

    assert max(device.shown) <= 1


async def test_quick_ones_are_shown_together_with_one_call(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Slow(100)

    assert await serve_slowly(device, monkeypatch, 200) == 1


async def test_replies_after_one_that_was_waited_for_are_shown_together(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WaitsOnce(Slow):
        concurrency = 1

        def __init__(self) -> None:
            super().__init__(0)
            self.gate = trio.Event()

        def handle(self, request: Request) -> Awaitable[None] | None:
            if request.readable:
                return self.gate.wait()
            return super().handle(request)

    device = WaitsOnce()
    async with by_hand(device) as hand:
        monkeypatch.setattr(current_loop(), "clock", device.perf_counter_ns)
        for data in (b"x", *[b""] * 100):
            hand.offer(data)
        hand.show()
        await settled()
        device.gate.set()
        await settled()

        assert hand.back() == 101
        counts = device.statistics().queues[0]
        assert counts.calls + counts.suppressed == 1


async def test_the_first_request_is_shown_when_its_batch_ends(autojump_clock: MockClock) -> None:
    """Not only when the next one comes."""
    async with by_hand(Echo()) as hand:
        hand.offer(b"x", 8)
        hand.show()
        await settled()

        assert hand.back() == 1
