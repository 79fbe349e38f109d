"""Resets, and what ends a queue otherwise."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.doorbells import Direct, Doorbell, EventFd
from paravirt.guestside import Driver
from tests.devices import ByHand, Upper, cancelled_at, check_service, hear, hold_up, served, turns

if TYPE_CHECKING:
    import random


async def test_a_reset_ends_all_that_waits(doorbell: type[Doorbell]) -> None:
    device = ByHand(8, 8)
    async with served(device, doorbell=doorbell) as link, Driver(link) as driver:
        whole = driver.free_memory
        async with trio.open_nursery() as nursery:
            hold_up(nursery, trio.BrokenResourceError, driver)
            hold_up(nursery, trio.BrokenResourceError, driver, queue=1)
            await device.several(16)
            await driver.reset()
        assert driver.free_memory == whole
        await check_service(driver, device)


async def test_a_reset_loses_what_was_submitted() -> None:
    device = ByHand(8)
    async with served(device) as link, Driver(link) as driver:
        driver.submit(b"x", 1)
        request = await device.next()
        await driver.reset()
        request.reply(b"y")  # too late, without effect

        assert await driver.reap() == []
        await check_service(driver, device)


async def test_who_reaps_hears_of_a_reset() -> None:
    device = ByHand(8)
    async with served(device) as link, Driver(link) as driver, trio.open_nursery() as nursery:

        async def reap() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await driver.reap()

        driver.submit(b"x", 1)
        nursery.start_soon(reap)
        await trio.testing.wait_all_tasks_blocked()
        await driver.reset()


async def test_requests_during_a_reset_are_refused() -> None:
    device = ByHand(8)
    async with served(device) as link, Driver(link) as driver, trio.open_nursery() as nursery:
        nursery.start_soon(driver.reset)
        await trio.lowlevel.checkpoint()
        refused = 0
        while link.ring(0) is None or refused == 0:
            with pytest.raises(trio.BrokenResourceError, match="was reset"):
                await driver.request(b"x", 1)
            refused += 1
            await trio.lowlevel.checkpoint()


async def test_several_tasks_reset_once(doorbell: type[Doorbell]) -> None:
    device = ByHand(8)
    async with served(device, doorbell=doorbell) as link, Driver(link) as driver:
        before = device.statistics().resets
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(driver.reset)
        assert device.statistics().resets == before + 1
        await check_service(driver, device)


async def test_a_cancelled_reset_is_done_again(doorbell: type[Doorbell]) -> None:
    device = ByHand(8)
    async with served(device, doorbell=doorbell) as link, Driver(link) as driver:
        for steps in range(60):
            with cancelled_at(steps) as scope:
                await driver.reset()
            if not scope.cancelled_caught:
                break
            await driver.reset()
            await check_service(driver, device)
        else:
            pytest.fail("it never ended")
        assert steps > 5


async def test_a_timeout_and_a_reset_restore_service(
    autojump_clock: trio.testing.MockClock,
) -> None:
    device = ByHand(2)
    async with served(device) as link, Driver(link) as driver:
        for _ in range(5):
            with pytest.raises(trio.TooSlowError), trio.fail_after(1):
                await driver.request_many([(b"x", 1)] * 5)
            await driver.reset()
            await check_service(driver, device)


class Reluctant(Direct):
    """Takes its time to leave a wait."""

    async def wait(self) -> None:
        await super().wait()
        with trio.CancelScope(shield=True):
            await turns(50)


async def test_a_reset_waits_until_nobody_looks_at_the_old_ring() -> None:
    """Who leaves writes to it once more: that no call is needed."""
    device = ByHand(8)
    async with (
        served(device, call_doorbell=Reluctant) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(hear, trio.BrokenResourceError, driver)
        await device.next()
        await driver.reset()
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await driver.request(b"new", 3))

        nursery.start_soon(ask)
        while (request := await device.next()).read() != b"new":
            pass  # from before the reset
        await turns(200)
        rings = link.call(0).statistics().rings
        request.reply(b"yes")

        assert link.call(0).statistics().rings == rings + 1
    assert answers == [b"yes"]


async def test_resets_under_load(doorbell: type[Doorbell], rng: random.Random) -> None:
    async with served(Upper(8), doorbell=doorbell) as link, Driver(link) as driver:
        answered = 0

        async def load(name: bytes) -> None:
            nonlocal answered
            while answered < 200:
                try:
                    assert await driver.request(name, 9) == name.upper()
                    assert await driver.request_many([(name, 9)] * 5) == [name.upper()] * 5
                except trio.BrokenResourceError:
                    await trio.lowlevel.checkpoint()
                else:
                    answered += 6

        async with trio.open_nursery() as nursery:
            for i in range(5):
                nursery.start_soon(load, b"task%d" % i)
            for _ in range(20):
                await turns(rng.randrange(8))
                await driver.reset()
        assert driver.statistics()[0].in_flight == 0


@pytest.mark.parametrize("kind", [Direct, EventFd], ids=lambda kind: kind.name)
async def test_a_thousand_resets_leave_nothing_behind(kind: type[Doorbell]) -> None:
    async with served(Upper(256), doorbell=kind) as link, Driver(link) as driver:
        whole = driver.free_memory

        async def resets(count: int) -> tuple[int, int]:
            for _ in range(count):
                await driver.reset()
                await driver.request(b"x", 1)
            gc.collect()
            return len(os.listdir("/proc/self/fd")), sys.getallocatedblocks()

        descriptors, blocks = await resets(20)
        more_descriptors, more_blocks = await resets(1000)

        assert more_descriptors == descriptors
        assert more_blocks - blocks < 500
        assert driver.free_memory == whole
