"""What ends a queue before its requests are answered."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.guestside import DeviceNeedsReset, Driver
from paravirt.hostside import Device, Request, RequestError, serve
from paravirt.transport import Loopback, RingBroken, Status, loopback
from tests.devices import ByHand, Upper, check_service, hear, hold_up, served, turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.doorbells import Doorbell


class Fragile(Device):
    """Cannot tell the guest of an error but by DEVICE_NEEDS_RESET."""

    device_id = 42
    queue_sizes = (8, 8)

    async def handle(self, request: Request) -> None:
        if request.read() == b"break":
            raise RequestError(1)
        await trio.sleep_forever()


async def test_needs_reset_reaches_all_that_wait(doorbell: type[Doorbell]) -> None:
    """2.1.2."""
    async with served(Fragile(), doorbell=doorbell) as link, Driver(link) as driver:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                hold_up(nursery, DeviceNeedsReset, driver, queue=1)
                await turns()
                nursery.start_soon(hear, DeviceNeedsReset, driver, b"break")
            for queue in 0, 1:
                await hear(DeviceNeedsReset, driver, queue=queue)
            await driver.reset()
            assert await link.get_status() == driver_ok()


def driver_ok() -> Status:
    return Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


async def test_with_needs_reset_no_reply_is_relied_on(doorbell: type[Doorbell]) -> None:
    """2.1.2. One call tells of both, and it may be the reply to what broke the device."""
    device = ByHand(8)
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        for _ in range(2):
            nursery.start_soon(hear, DeviceNeedsReset, driver)
        one, _ = await device.several(2)

        link.need_reset()
        one.reply(b"y")


async def test_needs_reset_while_nobody_waits_is_heard_later(doorbell: type[Doorbell]) -> None:
    async with served(ByHand(8), doorbell=doorbell) as link, Driver(link) as driver:
        link.need_reset()

        await hear(DeviceNeedsReset, driver)
        with pytest.raises(DeviceNeedsReset):
            driver.submit(b"x")
        with pytest.raises(DeviceNeedsReset):
            await driver.request_many([(b"x", 1)])


async def test_the_end_of_the_device_reaches_all_that_wait(doorbell: type[Doorbell]) -> None:
    device = ByHand(8, 8)
    async with served(device, doorbell=doorbell) as link, Driver(link) as driver:
        async with trio.open_nursery() as nursery:
            hold_up(nursery, trio.BrokenResourceError, driver)
            hold_up(nursery, trio.BrokenResourceError, driver, queue=1)
            await device.several(16)
            link.close_device_end()
        await hear(trio.BrokenResourceError, driver)
        with pytest.raises(trio.BrokenResourceError):
            await driver.reset()


async def test_the_end_of_the_server_reaches_all_that_wait(doorbell: type[Doorbell]) -> None:
    device = ByHand(8)
    link = loopback(device, doorbell=doorbell)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        await nursery.start(_serve_in, scope, device, link)
        async with Driver(link) as driver, trio.open_nursery() as waiting:
            hold_up(waiting, trio.BrokenResourceError, driver)
            await device.several(8)
            scope.cancel()
    link.close()


async def _serve_in(
    scope: trio.CancelScope,
    device: Device,
    link: Loopback,
    task_status: trio.TaskStatus[None],
) -> None:
    with scope:
        await serve(device, link, task_status=task_status)


async def test_what_was_answered_before_the_end_arrives(doorbell: type[Doorbell]) -> None:
    device = ByHand(8)
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):

        async def be_answered() -> None:
            assert await driver.request(b"x", 1) == b"y"

        nursery.start_soon(be_answered)
        request = await device.next()
        nursery.start_soon(hear, trio.BrokenResourceError, driver)
        await device.next()

        request.reply(b"y")
        link.close_device_end()


def claim_too_many(link: Loopback) -> None:
    ring = link.ring(0)
    assert ring is not None
    link.memory.write(ring.geometry.device + 2, struct.pack("<H", 9))


def claim_a_stranger(link: Loopback) -> None:
    ring = link.ring(0)
    assert ring is not None
    link.memory.write(ring.geometry.device + 2, struct.pack("<HLL", 1, 7, 0))


@pytest.mark.parametrize("lie", [claim_too_many, claim_a_stranger])
async def test_a_lie_in_the_ring_ends_one_queue(
    doorbell: type[Doorbell], lie: Callable[[Loopback], None]
) -> None:
    """2.7.8."""
    device = ByHand(8, 8)
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.request, b"", 0, 1)
            other = await device.next()
            for _ in range(3):
                nursery.start_soon(hear, RingBroken, driver)
            await device.several(3)

            lie(link)
            link.call(0).ring()

            await turns()
            other.reply()
        await hear(RingBroken, driver)
        await driver.reset()
        await check_service(driver, device)


async def test_memory_that_a_broken_queue_has_is_not_waited_for() -> None:
    device = ByHand(8, 8)
    async with served(device, memory_size=1 << 16) as link, Driver(link) as driver:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear, RingBroken, driver, b"", 1 << 15)
            await device.next()
            claim_too_many(link)
            link.call(0).ring()

        with pytest.raises(MemoryError, match="reset"):
            await driver.request(b"", 1 << 15, queue=1)


async def test_who_waits_for_memory_hears_that_the_holder_broke() -> None:
    device = ByHand(8, 8)
    async with (
        served(device, memory_size=1 << 16) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(hear, RingBroken, driver, b"", 1 << 15)
        await device.next()
        nursery.start_soon(hear, MemoryError, driver, b"", 1 << 15, 1)
        await trio.testing.wait_all_tasks_blocked()
        claim_too_many(link)
        link.call(0).ring()


async def test_each_who_hears_of_an_end_gets_an_error_of_its_own() -> None:
    async with served(Upper()) as link, Driver(link) as driver:
        link.close_device_end()
        errors = list[BaseException]()
        for _ in range(3):
            with pytest.raises(trio.BrokenResourceError) as caught:
                await driver.request(b"x", 1)
            errors.append(caught.value)

        assert len({id(error) for error in errors}) == 3
        assert len({str(error) for error in errors}) == 1
