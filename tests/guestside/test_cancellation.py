"""What a cancelled caller leaves behind, and who goes on for it."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.guestside import Driver
from paravirt.transport import Feature
from tests.devices import ByHand, Upper, cancelled_at, served, turns

if TYPE_CHECKING:
    import random

    from paravirt.doorbells import Doorbell

HANG = 1000.0  # seconds of the mock clock, which jumps there at once if nobody can go on


async def test_cancelled_before_it_begins_a_request_has_no_effect() -> None:
    device = ByHand()
    async with served(device) as link, Driver(link) as driver:
        for verb in (
            partial(driver.request, b"x", 1),
            partial(driver.request_many, [(b"x", 1)]),
        ):
            with trio.CancelScope() as scope:
                scope.cancel()
                await verb()
            assert scope.cancelled_caught

        assert driver.statistics()[0].requests == 0


async def test_cancelled_while_it_waits_for_room_a_request_has_no_effect(
    doorbell: type[Doorbell],
) -> None:
    device = ByHand(2)
    async with served(device, doorbell=doorbell) as link, Driver(link) as driver:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(driver.request, b"first")
            held = await device.several(2)
            scope = trio.CancelScope()
            nursery.start_soon(_request_in, scope, driver)
            await turns()
            scope.cancel()
            await turns()
            for request in held:
                request.reply()
        await turns()

        assert device.waiting == 0
        assert driver.statistics()[0].requests == 2


async def _request_in(scope: trio.CancelScope, driver: Driver) -> None:
    with scope:
        await driver.request(b"second", 100)


async def test_cancelled_later_its_buffer_stays_the_devices(doorbell: type[Doorbell]) -> None:
    device = ByHand()
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        whole = driver.free_memory
        scope = trio.CancelScope()
        nursery.start_soon(_request_in, scope, driver)
        request = await device.next()
        scope.cancel()
        await turns()

        assert driver.free_memory < whole
        assert driver.statistics()[0].in_flight == 1
        assert request.read() == b"second"
        request.reply(b"a" * 100)
        nursery.start_soon(driver.request, b"third")
        third = await device.next()
        assert third.read() == b"third"
        third.reply()

        while driver.statistics()[0].in_flight:
            await trio.lowlevel.checkpoint()
        assert driver.free_memory == whole


async def test_the_reply_of_a_cancelled_request_goes_to_nobody() -> None:
    device = ByHand()
    async with served(device) as link, Driver(link) as driver:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.request, b"dropped", 7)
            dropped = await device.next()
            nursery.cancel_scope.cancel()
        dropped.reply(b"dropped")

        number = driver.submit(b"", 4)
        (await device.next()).reply(b"kept")

        assert await driver.reap() == [(number, b"kept")]


@pytest.mark.parametrize("many", [False, True], ids=["request", "request_many"])
@pytest.mark.parametrize("features", [~0, ~int(Feature.RING_INDIRECT_DESC)])
async def test_cancelled_at_any_point_nothing_is_lost(many: bool, features: int) -> None:
    async with served(Upper(2), features=features) as link, Driver(link) as driver:
        whole = driver.free_memory
        for steps in range(60):
            with cancelled_at(steps) as scope:
                if many:
                    await driver.request_many([(b"x", 1)] * 5)
                else:
                    await driver.request(b"x", 1)
            assert await driver.request(b"y", 1) == b"Y"
            assert (driver.free_memory, driver.statistics()[0].in_flight) == (whole, 0)
            if not scope.cancelled_caught:
                assert steps > 0
                return
        pytest.fail("it never ended")


async def test_a_cancelled_reap_has_taken_nothing() -> None:
    async with served(Upper(8)) as link, Driver(link) as driver:
        for steps in range(30):
            number = driver.submit(b"x", 1)
            with cancelled_at(steps) as scope:
                assert await driver.reap() == [(number, b"X")]
            if not scope.cancelled_caught:
                assert steps > 1
                return
            assert await driver.reap() == [(number, b"X")]
        pytest.fail("it never ended")


async def test_whoever_reaps_for_all_hands_over(doorbell: type[Doorbell]) -> None:
    """Each of the waiting callers is cancelled in its turn; the others get their replies."""
    device = ByHand(8)
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        got: list[bytes] = []
        scopes = [trio.CancelScope() for _ in range(5)]
        for index, scope in enumerate(scopes):
            nursery.start_soon(_ask, driver, index, scope, got)
            await turns(3)
        requests = await device.several(5)
        for scope in scopes[:4]:
            scope.cancel()
            await turns(3)
        for request in requests:
            request.reply(request.read())
        while not got:
            await trio.lowlevel.checkpoint()

        assert got == [b"4"]


async def _ask(driver: Driver, index: int, scope: trio.CancelScope, got: list[bytes]) -> None:
    with scope:
        reply = await driver.request(b"%d" % index, 9)
        assert reply == b"%d" % index
        got.append(reply)


@pytest.mark.parametrize("size", [1, 2, 4, 16])
async def test_in_any_order_of_replies_and_cancellations_all_others_are_answered(
    autojump_clock: trio.testing.MockClock, rng: random.Random, size: int
) -> None:
    device = ByHand(size)
    async with served(device) as link, Driver(link) as driver:
        whole = driver.free_memory
        for _ in range(60):
            got: list[bytes] = []
            scopes = [trio.CancelScope() for _ in range(8)]
            with trio.fail_after(HANG):
                async with trio.open_nursery() as nursery:
                    for index, scope in enumerate(scopes):
                        verb = _ask_one if size == 1 else rng.choice([_ask, _ask_several])
                        nursery.start_soon(verb, driver, index, scope, got)
                    victims = rng.sample(scopes, rng.randrange(8))
                    nursery.start_soon(_cancel, rng, victims)
                    await _answer_in_any_order(device, driver, rng, nursery)
            assert len(got) >= 8 - len(victims)
            assert driver.free_memory == whole


async def _ask_one(driver: Driver, index: int, scope: trio.CancelScope, got: list[bytes]) -> None:
    with scope:
        got.append(await driver.request(b"%d" % index))


async def _ask_several(
    driver: Driver, index: int, scope: trio.CancelScope, got: list[bytes]
) -> None:
    with scope:
        texts = [b"%d-%d" % (index, i) for i in range(3)]
        assert await driver.request_many([(text, 9) for text in texts]) == texts
        got.append(texts[0])


async def _cancel(rng: random.Random, scopes: list[trio.CancelScope]) -> None:
    for scope in scopes:
        await turns(rng.randrange(4))
        scope.cancel()


async def _answer_in_any_order(
    device: ByHand, driver: Driver, rng: random.Random, nursery: trio.Nursery
) -> None:
    """Answer until all have gone; then a last request finds what was dropped."""
    mine = len(nursery.child_tasks)
    held = [await device.next()]
    while held or mine:
        if held and rng.random() < 0.7:
            request = held.pop(rng.randrange(len(held)))
            request.reply(request.read())
        await turns(rng.randrange(3))
        while device.waiting:
            held.append(await device.next())
        mine = len(nursery.child_tasks)
    nursery.start_soon(driver.request, b"last")  # reaps what nobody waited for
    while (request := await device.next()).read() != b"last":
        request.reply()
    request.reply()


def test_ctrl_c_is_like_a_cancellation() -> None:
    """It ends one wait; whoever waits besides is answered, and the pool comes back whole."""
    device = ByHand(8)

    async def ask(driver: Driver) -> None:
        assert await driver.request(b"other", 1) == b"y"

    @trio.lowlevel.enable_ki_protection  # else it would be raised here
    async def interrupt(driver: Driver) -> None:
        requests = await device.several(3)
        signal.raise_signal(signal.SIGINT)
        await trio.testing.wait_all_tasks_blocked()
        assert driver.statistics()[0].in_flight == 3
        for request in requests:
            request.reply(b"y")

    async def main() -> None:
        async with served(device) as link, Driver(link) as driver:
            whole = driver.free_memory
            async with trio.open_nursery() as nursery:
                nursery.start_soon(interrupt, driver)
                for _ in range(2):
                    nursery.start_soon(ask, driver)
                with pytest.raises(KeyboardInterrupt):
                    await driver.request(b"main", 1)
            assert driver.free_memory == whole

    trio.run(main)


async def test_a_caller_cancelled_just_as_its_room_came_does_not_keep_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The wake for room and the cancellation arrive together."""
    device = ByHand(2)
    async with (
        served(device) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        for _ in range(30):
            nursery.start_soon(driver.request_many, [(b"first", 0)] * 2)
            held = await device.several(2)
            scope = trio.CancelScope()
            nursery.start_soon(_request_in, scope, driver)
            nursery.start_soon(driver.request, b"third")
            await trio.testing.wait_all_tasks_blocked()
            held[0].reply()
            await trio.lowlevel.checkpoint()
            scope.cancel()
            held[1].reply()
            with trio.fail_after(HANG):
                while (request := await device.next()).read() != b"third":
                    request.reply()
                request.reply()
                await trio.testing.wait_all_tasks_blocked()
            while device.waiting:
                (await device.next()).reply()
            await trio.testing.wait_all_tasks_blocked()
