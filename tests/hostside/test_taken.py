"""Queues whose requests are taken instead of handled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.hostside import Device, Request

from .serving import served, settled

if TYPE_CHECKING:
    from trio.testing import MockClock

    from paravirt.doorbells import DoorbellMaker


class Taker(Device):
    """Replies to what it takes from queue 1; queue 0 is handled."""

    device_id = 42
    queue_sizes = (8, 8)
    taken_queues = (1,)

    def handle(self, request: Request) -> None:
        request.reply(b"handled")


async def test_a_request_is_taken_and_replied_to_later(doorbell: DoorbellMaker) -> None:
    device = Taker()
    async with served(device, doorbell) as it:
        it.driver.submit(b"room", 8, queue=1)
        assert await it.driver.request(b"", 8) == b"handled"
        request = await device.queue(1).take()
        assert request.read() == b"room"
        assert await it.driver.request(b"", 8) == b"handled"
        request.reply(b"packet")

        assert await it.driver.reap(queue=1) == [(1, b"packet")]


async def test_take_waits_for_a_request(doorbell: DoorbellMaker) -> None:
    device = Taker()
    async with served(device, doorbell) as it:
        await it.driver.request(b"", 8)
        it.nursery.start_soon(take_and_reply, device)
        for _ in range(20):
            await trio.lowlevel.checkpoint()

        assert await it.driver.request(b"a", 8, queue=1) == b"a"


async def take_and_reply(device: Device, queue: int = 1) -> None:
    request = await device.queue(queue).take()
    request.reply(request.read())


async def test_each_request_is_taken_once_and_in_order(autojump_clock: MockClock) -> None:
    device = Taker()
    async with served(device) as it:
        for i in range(8):
            it.driver.submit(b"%d" % i, 8, queue=1)
        await settled()
        taken = [(await device.queue(1).take()).read() for _ in range(8)]
        assert taken == [b"%d" % i for i in range(8)]
        with trio.move_on_after(1) as scope:
            await device.queue(1).take()
        assert scope.cancelled_caught


async def test_a_second_taker_is_refused(autojump_clock: MockClock) -> None:
    device = Taker()
    async with served(device) as it:
        await settled()
        it.nursery.start_soon(take_and_reply, device)
        await settled()
        with pytest.raises(trio.BusyResourceError):
            await device.queue(1).take()
        assert await it.driver.request(b"a", 8, queue=1) == b"a"


async def test_a_queue_that_is_handled_cannot_be_taken_from(autojump_clock: MockClock) -> None:
    device = Taker()
    async with served(device) as it:
        await settled()
        with pytest.raises(trio.BusyResourceError):
            await device.queue(0).take()
        assert await it.driver.request(b"", 8) == b"handled"


async def test_a_cancelled_take_has_taken_nothing(autojump_clock: MockClock) -> None:
    device = Taker()
    async with served(device) as it:
        await settled()
        with trio.move_on_after(1):
            await device.queue(1).take()
        it.driver.submit(b"a", 8, queue=1)
        await settled()
        with trio.CancelScope() as scope:
            scope.cancel()
            await device.queue(1).take()

        assert (await device.queue(1).take()).read() == b"a"


async def test_take_is_a_checkpoint_although_a_request_is_there(
    autojump_clock: MockClock,
) -> None:
    device = Taker()
    async with served(device) as it:
        await settled()
        for _ in range(2):
            it.driver.submit(b"a", 8, queue=1)
        with trio.testing.assert_checkpoints():
            await device.queue(1).take()
        with trio.testing.assert_checkpoints():
            await device.queue(1).take()


async def expect_closed(device: Device, told: list[str]) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await device.queue(1).take()
    told.append("closed")


async def test_whoever_takes_is_told_of_a_reset(autojump_clock: MockClock) -> None:
    """Also a task that lives longer than `Device.run`; else it would sit on the next one's seat."""
    device = Taker()
    told: list[str] = []
    async with served(device) as it:
        await settled()
        it.nursery.start_soon(expect_closed, device, told)
        await settled()
        await it.driver.reset()
        await settled()
        assert told == ["closed"]
        it.nursery.start_soon(take_and_reply, device)

        assert await it.driver.request(b"a", 8, queue=1) == b"a"


async def test_whoever_takes_is_told_of_the_end(doorbell: DoorbellMaker) -> None:
    device = Taker()
    told: list[str] = []
    async with trio.open_nursery() as nursery, served(device, doorbell) as it:
        await it.driver.request(b"", 8)
        nursery.start_soon(expect_closed, device, told)
        for _ in range(20):
            await trio.lowlevel.checkpoint()

    assert told == ["closed"]


async def test_a_queue_of_an_earlier_life_gives_nothing(autojump_clock: MockClock) -> None:
    device = Taker()
    async with served(device) as it:
        await settled()
        old = device.queue(1)
        for _ in range(2):
            it.driver.submit(b"old", 8, queue=1)
        await old.take()
        await it.driver.reset()
        with pytest.raises(trio.ClosedResourceError):
            await old.take()
