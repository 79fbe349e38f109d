"""Faults change nothing but time, or what they say they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.doorbells import Direct, Polling
from paravirt.guestside import DeviceNeedsReset, Driver
from paravirt.transport import Faults, Feature, loopback
from paravirt.transport.link import QueueStart
from tests.devices import ByHand, Upper, served

if TYPE_CHECKING:
    from trio.testing import MockClock

    from paravirt.transport._faults import Way

HANG = 1000.0  # seconds of the mock clock, which jumps there at once if nobody can go on
SEEDS = 150
NO_EVENT_IDX = ~int(Feature.RING_EVENT_IDX)
WAYS: list[Way] = ["kick", "call"]


async def echo(driver: Driver, text: bytes = b"text", queue: int = 0) -> float:
    """Send a request and return how long its reply took."""
    await trio.testing.wait_all_tasks_blocked()  # else the other side is awake and needs no ring
    began = trio.current_time()
    assert await driver.request(text, len(text), queue) == text.upper()
    return trio.current_time() - began


@pytest.mark.parametrize("way", WAYS)
async def test_a_delayed_notification_arrives_later(autojump_clock: MockClock, way: Way) -> None:
    faults = Faults(delay=2)
    async with served(Upper(), faults=faults) as link, Driver(link) as driver:
        faults.delay_next(way)

        assert await echo(driver) == pytest.approx(2)
        assert await echo(driver) == 0
    assert faults.injected == [("delay", way, 0)]


@pytest.mark.parametrize("way", WAYS)
async def test_a_duplicated_notification_arrives_at_once_and_later(
    autojump_clock: MockClock, way: Way
) -> None:
    faults = Faults(delay=2)
    async with served(Upper(), faults=faults) as link, Driver(link) as driver:
        bell = link.kick(0) if way == "kick" else link.call(0)
        faults.duplicate_next(way)

        assert await echo(driver) == 0
        rings = bell.statistics().rings
        await trio.sleep(2.5)
        assert bell.statistics().rings == rings + 1
        assert await echo(driver) == 0
    assert faults.injected == [("duplicate", way, 0)]


@pytest.mark.parametrize("way", WAYS)
async def test_a_reordered_notification_arrives_after_the_next_other_one(
    autojump_clock: MockClock, way: Way
) -> None:
    faults = Faults(delay=2)
    async with served(Upper(8, 8), faults=faults) as link, Driver(link) as driver:
        order: list[int] = []

        async def ask(queue: int, expected: float) -> None:
            assert await echo(driver, queue=queue) == pytest.approx(expected)
            order.append(queue)

        faults.reorder_next(way, queue=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 1, 1)
            await trio.sleep(1)
            assert not order
            nursery.start_soon(ask, 0, 0)

        assert sorted(order) == [0, 1]
    assert faults.injected == [("reorder", way, 1)]


@pytest.mark.parametrize("way", WAYS)
async def test_a_reordered_notification_without_another_arrives_later(
    autojump_clock: MockClock, way: Way
) -> None:
    faults = Faults(delay=2)
    async with served(Upper(), faults=faults) as link, Driver(link) as driver:
        faults.reorder_next(way)

        assert await echo(driver) == pytest.approx(2)


async def test_a_dropped_kick_hangs_the_queue_until_a_reset(autojump_clock: MockClock) -> None:
    """Outside of a doorbell's contract: with EVENT_IDX later kicks are suppressed too (2.7.7)."""
    faults = Faults()
    async with served(Upper(), faults=faults) as link, Driver(link) as driver:
        whole = driver.free_memory
        await trio.testing.wait_all_tasks_blocked()
        faults.drop_next("kick")
        for _ in range(3):
            with trio.move_on_after(HANG) as scope:
                await driver.request(b"lost", 4)
            assert scope.cancelled_caught
        (queue,) = driver.statistics()
        assert (queue.requests, queue.kicks, queue.in_flight) == (3, 1, 3)

        await driver.reset()

        assert driver.free_memory == whole
        assert await echo(driver) == 0
    assert faults.injected == [("drop", "kick", 0)]


async def test_a_dropped_call_hangs_who_waits(autojump_clock: MockClock) -> None:
    """Whoever comes next looks before it sleeps, and reaps for the first too."""
    faults = Faults()
    async with (
        served(Upper(), faults=faults) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        await trio.testing.wait_all_tasks_blocked()
        faults.drop_next("call")
        with trio.move_on_after(HANG) as scope:
            await driver.request(b"lost", 4)
        assert scope.cancelled_caught

        nursery.start_soon(driver.request, b"next", 4)
        assert await echo(driver) == 0
    assert faults.injected == [("drop", "call", 0)]


async def test_who_waits_at_a_doorbell_rings_it_without_faults(autojump_clock: MockClock) -> None:
    """A server that stops, and a driver that resets, wake themselves in this way."""
    faults = Faults()
    link = loopback(Upper(), doorbell=Direct, faults=faults)
    for way in WAYS:
        faults.drop_next(way)
    async with Driver(link):
        start = await link.next_change()
        assert isinstance(start, QueueStart)

        start.kick.ring()
        link.call(0).ring()

        with trio.fail_after(HANG):
            await start.kick.wait()
            await link.call(0).wait()
        link.close()
    assert not faults.injected


async def test_other_queues_go_on_beside_a_dropped_notification(autojump_clock: MockClock) -> None:
    faults = Faults()
    async with (
        served(Upper(8, 8), faults=faults) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        faults.drop_next("kick", queue=1)
        nursery.start_soon(driver.request, b"lost", 4, 1)

        for _ in range(5):
            assert await echo(driver) == 0
        nursery.cancel_scope.cancel()


async def test_without_event_idx_the_next_kick_makes_up_for_a_dropped_one(
    autojump_clock: MockClock,
) -> None:
    """2.7.7.2: flags are not used up by a notification."""
    faults = Faults()
    async with (
        served(Upper(), features=NO_EVENT_IDX, faults=faults) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        await trio.testing.wait_all_tasks_blocked()
        faults.drop_next("kick")
        with trio.fail_after(HANG):
            nursery.start_soon(driver.request, b"lost", 4)
            assert await echo(driver) == 0


@pytest.mark.parametrize("way", WAYS)
async def test_faults_do_nothing_to_polling(autojump_clock: MockClock, way: Way) -> None:
    faults = Faults()
    async with served(Upper(), doorbell=Polling, faults=faults) as link, Driver(link) as driver:
        for _ in range(20):
            faults.drop_next(way)
            assert await driver.request(b"text", 4) == b"TEXT"


async def test_stop_stops_the_device_in_mid_batch(autojump_clock: MockClock) -> None:
    """A fault that waits for the next kick does not swallow the device's going on."""
    device = ByHand(16)
    faults = Faults(delay=2)
    async with (
        served(device, faults=faults) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        await trio.testing.wait_all_tasks_blocked()
        faults.stop_next("kick")
        faults.drop_next("kick")
        nursery.start_soon(driver.request_many, [(b"", 0)] * 8)
        await trio.sleep(1)
        assert device.waiting == 1
        (await device.next()).reply()
        await trio.sleep(0.5)
        assert device.waiting == 0
        await trio.sleep(1)
        assert device.waiting == 7
        for request in await device.several(7):
            request.reply()


async def test_the_device_is_stopped_by_a_call_too(autojump_clock: MockClock) -> None:
    faults = Faults(delay=2)
    async with served(Upper(), faults=faults) as link, Driver(link) as driver:
        faults.stop_next("call")
        assert await echo(driver) == 0
        assert await echo(driver) == 0  # the one more

        assert await echo(driver) == pytest.approx(2)


async def test_break_makes_the_device_need_a_reset(autojump_clock: MockClock) -> None:
    """2.1.2."""
    faults = Faults()
    async with served(Upper(), faults=faults) as link, Driver(link) as driver:
        faults.break_next("kick")
        with pytest.raises(DeviceNeedsReset):
            await echo(driver)
        with pytest.raises(DeviceNeedsReset):
            await echo(driver)

        await driver.reset()

        assert await echo(driver) == 0


async def test_faults_of_one_queue_come_in_the_order_given(autojump_clock: MockClock) -> None:
    faults = Faults(delay=2)
    async with served(Upper(8, 8), faults=faults) as link, Driver(link) as driver:
        faults.delay_next("kick", queue=1)
        faults.duplicate_next("kick", queue=1)
        faults.delay_next("kick", queue=1)
        assert await echo(driver, queue=0) == 0
        assert not faults.injected

        assert [await echo(driver, queue=1) for _ in range(4)] == pytest.approx([2, 0, 2, 0])

    assert [fault for fault, _, _ in faults.injected] == ["delay", "duplicate", "delay"]


async def test_a_link_may_close_while_a_notification_is_late(autojump_clock: MockClock) -> None:
    faults = Faults(delay=2)
    async with served(Upper(8, 8), faults=faults) as link, Driver(link) as driver:
        faults.delay_next("kick")
        faults.reorder_next("kick", queue=1)
        faults.stop_next("call", queue=1)
        for queue in 0, 1:
            with trio.move_on_after(1):
                await driver.request(b"x", 1, queue)
    await trio.sleep(3)


async def test_a_reset_while_the_device_is_stopped_starts_it(autojump_clock: MockClock) -> None:
    faults = Faults(delay=2)
    async with served(Upper(), faults=faults) as link, Driver(link) as driver:
        faults.stop_next("kick")
        with trio.move_on_after(1):
            await driver.request_many([(b"x", 1)] * 5)
        await driver.reset()

        assert await echo(driver) == 0
        await trio.sleep(3)
        assert await echo(driver) == 0
