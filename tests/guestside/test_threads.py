"""A driver in a trio run of its own, in another thread."""

from __future__ import annotations

from typing import TypeVar

import pytest
import trio

from paravirt.doorbells import Direct, Doorbell
from paravirt.guestside import Driver
from paravirt.transport import Status
from tests.devices import ByHand, Level, Tank, Upper, served

T = TypeVar("T")


async def test_a_trio_run_in_another_thread(between: type[Doorbell]) -> None:
    async def work() -> None:
        async with Driver(link) as driver, trio.open_nursery() as nursery:
            assert link.concurrent
            for i in range(8):
                nursery.start_soon(_ask_often, driver, b"task%d" % i)
            await driver.read_config(Level)
            await driver.write_config(0, (7).to_bytes(4, "little"))
            await driver.config_changed()

    async with served(Tank(), doorbell=between) as link:
        await trio.to_thread.run_sync(trio.run, work)
        assert await link.get_status() == 0


async def _ask_often(driver: Driver, name: bytes) -> None:
    for i in range(10):
        text = b"%b-%d" % (name, i)
        assert await driver.request(text, 9) == text.upper()


async def test_resets_from_a_trio_run_in_another_thread(between: type[Doorbell]) -> None:
    async def work() -> None:
        async with Driver(link) as driver, trio.open_nursery() as nursery:
            nursery.start_soon(_ask_in_spite_of_resets, driver)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
                await driver.reset()
            nursery.cancel_scope.cancel()

    async with served(Upper(4), doorbell=between) as link:
        await trio.to_thread.run_sync(trio.run, work)
        assert Status.DRIVER_OK not in await link.get_status()


async def _ask_in_spite_of_resets(driver: Driver) -> None:
    while True:
        try:
            assert await driver.request_many([(b"x", 1)] * 9) == [b"X"] * 9
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()


async def test_the_end_of_the_device_reaches_another_run(between: type[Doorbell]) -> None:
    device = ByHand(2)

    async def work() -> None:
        async with Driver(link) as driver, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(hear, driver)

    async def run_apart() -> None:
        await trio.to_thread.run_sync(trio.run, work)

    async def hear(driver: Driver) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await driver.request(b"x", 1)

    async with served(device, doorbell=between) as link, trio.open_nursery() as nursery:
        nursery.start_soon(run_apart)
        await device.several(2)
        link.close_device_end()


async def test_a_direct_doorbell_refuses_another_run() -> None:
    async def work() -> None:
        with pytest.raises(RuntimeError, match="use EventFd"):
            await Driver(link).__aenter__()

    async with served(Upper(), doorbell=Direct) as link:
        await trio.to_thread.run_sync(trio.run, work)
