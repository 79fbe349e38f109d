"""Full queues and full memory: `request` waits, `submit` does not."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from paravirt.doorbells import Direct, Doorbell
from paravirt.guestside import Driver
from paravirt.transport import Feature
from tests.devices import ByHand, Upper, served, turns

SIZES = [0, 1, 63, 64, 65, 4095, 4096, 4097, 70000]
NO_INDIRECT = ~int(Feature.RING_INDIRECT_DESC)
NO_EVENT_IDX = ~int(Feature.RING_EVENT_IDX)


async def test_request_many_keeps_the_queue_full_behind_a_slow_one() -> None:
    device = ByHand(8)
    async with served(device) as link, Driver(link) as driver, trio.open_nursery() as nursery:
        nursery.start_soon(driver.request_many, [(b"", 0)] * 100)
        slow, *held = await device.several(8)
        for _ in range(92):
            held.pop().reply()
            held.append(await device.next())
            assert driver.statistics()[0].in_flight == 8
        for request in [slow, *held]:
            request.reply()


async def test_request_many_fills_a_long_queue_at_once() -> None:
    device = ByHand(1024)
    async with (
        served(device, memory_size=1 << 21) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(driver.request_many, [(b"", 0)] * 1024)
        for request in await device.several(1024):
            request.reply()


async def test_request_waits_while_the_queue_is_full(doorbell: type[Doorbell]) -> None:
    device = ByHand(2)
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        for _ in range(9):
            nursery.start_soon(driver.request, b"x", 1)
        held = await device.several(2)
        await turns()
        for _ in range(7):
            assert device.waiting == 0
            held.pop(0).reply()
            held.append(await device.next())
            await turns()
        for request in held:
            request.reply()


@pytest.mark.parametrize("features", [~0, NO_INDIRECT], ids=["indirect", "direct"])
async def test_submit_does_not_wait_for_a_full_queue(features: int) -> None:
    device = ByHand(4)
    async with served(device, features=features) as link, Driver(link) as driver:
        most = 4 if features == ~0 else 2
        numbers = [driver.submit(b"x", 1) for _ in range(most)]
        with pytest.raises(trio.WouldBlock):
            driver.submit(b"x", 1)

        for request in await device.several(most):
            request.reply(b"y")

        assert await driver.reap() == [(number, b"y") for number in numbers]
        driver.submit(b"x", 1)


async def test_submit_does_not_wait_for_memory() -> None:
    device = ByHand(8)
    async with served(device, memory_size=1 << 16) as link, Driver(link) as driver:
        driver.submit(b"", 1 << 15)
        with pytest.raises(trio.WouldBlock):
            driver.submit(b"", 1 << 15)

        (await device.next()).reply()

        await driver.reap()
        driver.submit(b"", 1 << 15)


async def test_memory_is_waited_for(doorbell: type[Doorbell]) -> None:
    async with (
        served(Upper(64), doorbell=doorbell, memory_size=1 << 16) as link,
        Driver(link) as driver,
    ):
        whole = driver.free_memory
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(driver.request, bytes(1 << 14))
        assert len(await driver.request_many([(b"x" * 10000, 10000)] * 20)) == 20
        assert driver.free_memory == whole


@pytest.mark.parametrize("holder", ["submit", "request", "cancelled"])
async def test_memory_that_another_queue_has_is_waited_for(
    doorbell: type[Doorbell], holder: str
) -> None:
    device = ByHand(8, 8)
    async with (
        served(device, doorbell=doorbell, memory_size=1 << 16) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        scope = trio.CancelScope()
        if holder == "submit":
            driver.submit(b"", 1 << 15, queue=1)
        elif holder == "request":
            nursery.start_soon(driver.request, b"", 1 << 15, 1)
        else:
            nursery.start_soon(_cancelled_in, scope, driver)
        held = await device.next()
        scope.cancel()
        nursery.start_soon(driver.request, b"", 1 << 15, 0)
        await turns()
        assert device.waiting == 0

        held.reply()

        (await device.next()).reply()


async def _cancelled_in(scope: trio.CancelScope, driver: Driver) -> None:
    with scope:
        await driver.request(b"", 1 << 15, 1)


async def test_a_small_request_passes_a_large_one_that_waits_for_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Of two descriptors one comes back: too little for who waited first."""
    device = ByHand(2)
    async with (
        served(device, doorbell=Direct, features=NO_INDIRECT) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(driver.request_many, [(b"one", 0), (b"two", 0)])
        one, two = await device.several(2)
        nursery.start_soon(driver.request, b"both", 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(driver.request, b"half", 0)
        await trio.testing.wait_all_tasks_blocked()

        two.reply()

        with trio.fail_after(1):
            half = await device.next()
        assert half.read() == b"half"
        one.reply()
        half.reply()
        (await device.next()).reply()
