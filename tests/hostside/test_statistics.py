"""What a server counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import Polling

from .serving import Echo, Parked, by_hand, served, settled

if TYPE_CHECKING:
    from trio.testing import MockClock

    from paravirt.doorbells import DoorbellMaker
    from paravirt.hostside import Device, QueueStatistics, Request


def queue_of(device: Device, index: int = 0) -> QueueStatistics:
    return device.statistics().queues[index]


class TwoQueues(Echo):
    queue_sizes = (8, 16)


async def test_requests_and_bytes_are_counted_by_queue(doorbell: DoorbellMaker) -> None:
    device = TwoQueues()
    async with served(device, doorbell) as it:
        for data in (b"a", b"bcd", b""):
            await it.driver.request(data, 2, queue=1)
        idle, used = device.statistics().queues

    assert (idle.queue, idle.requests, idle.bytes_in, idle.kicks) == (0, 0, 0, 0)
    assert (used.queue, used.requests, used.completed, used.in_flight) == (1, 3, 3, 0)
    assert (used.bytes_in, used.bytes_out, used.cut) == (4, 3, 1)
    assert (used.stale, used.rejected, used.broken) == (0, {}, None)


async def test_what_is_in_flight_shows(autojump_clock: MockClock) -> None:
    device = Parked()
    async with served(device) as it:
        it.driver.submit(b"a", 8)
        it.driver.submit(b"b", 8)
        await settled()
        assert queue_of(device).in_flight == 2
        device.let_go(b"a")
        await settled()

        counts = queue_of(device)
        assert (counts.requests, counts.completed, counts.in_flight) == (2, 1, 1)


async def test_kicks_and_calls_are_counted_once_each(autojump_clock: MockClock) -> None:
    device = Echo()
    async with by_hand(device) as hand:
        for _ in range(3):
            hand.offer(b"x", 8)
            hand.rings[0].arm()
            hand.show()
            await settled()
            assert hand.back() == 1

        counts = queue_of(device)
        assert (counts.kicks, counts.calls, counts.suppressed) == (3, 3, 0)


async def test_a_call_that_the_driver_does_not_want_is_counted(autojump_clock: MockClock) -> None:
    device = Echo()
    async with by_hand(device) as hand:
        hand.rings[0].disarm()
        for _ in range(3):
            hand.offer(b"x", 8)
            hand.show()
            await settled()

        counts = queue_of(device)
        assert (counts.calls, counts.suppressed) == (0, 3)
        assert hand.link.call(0).statistics().rings == 0


async def test_a_kick_that_found_the_server_awake_is_none(autojump_clock: MockClock) -> None:
    """What is there already when the server would go to sleep is no kick."""
    device = Echo()
    async with served(device) as it:
        await settled()
        requests = [(b"x", 8)] * 1000
        await it.driver.request_many(requests)

        assert queue_of(device).kicks <= it.rings


async def test_polling_has_no_kicks() -> None:
    device = Echo()
    async with served(device, Polling) as it:
        await it.driver.request(b"x", 8)

        assert queue_of(device).kicks == 0


async def test_a_reset_begins_to_count_anew(autojump_clock: MockClock) -> None:
    device = Echo()
    async with served(device) as it:
        await it.driver.request(b"x", 9)
        resets = device.statistics().resets
        await it.driver.reset()
        await settled()

        assert device.statistics().resets == resets + 1
        assert (queue_of(device).requests, queue_of(device).kicks) == (0, 0)


async def test_a_device_without_a_driver_has_no_queues(autojump_clock: MockClock) -> None:
    device = Echo()
    async with served(device) as it:
        await settled()
        await it.link.set_status(0)
        await settled()

        assert device.statistics().queues == []


async def test_the_causes_of_rejected_chains_are_counted(autojump_clock: MockClock) -> None:
    device = Echo()
    async with by_hand(device) as hand:
        hand.offer_bad()
        hand.offer_bad()
        hand.show()
        await settled()
        hand.break_queue()
        await settled()

        counts = queue_of(device)
        assert counts.rejected == {"address": 2, "avail_index": 1}
        assert counts.broken == "avail_index"
        assert (counts.requests, counts.completed) == (0, 0)


async def test_records_are_frozen(autojump_clock: MockClock) -> None:
    device = Echo()
    async with served(device) as it:
        await it.driver.request(b"x", 8)
        with pytest.raises(AttributeError):
            queue_of(device).requests = 7  # type: ignore[misc]


async def test_suspended_handlers_publish_one_by_one(autojump_clock: MockClock) -> None:
    """One call for each: nobody could have known of the next."""

    class Sleeps(Echo):
        async def handle(self, request: Request) -> None:
            await trio.sleep(request.readable)
            request.reply(b"")

    device = Sleeps()
    async with by_hand(device) as hand:
        for i in range(4):
            hand.offer(b"x" * (i + 1))
        hand.show()
        seen = 0
        for _ in range(4):
            hand.rings[0].arm()
            await trio.sleep(1)
            await settled()
            seen += hand.back()

        assert (seen, queue_of(device).calls) == (4, 4)
