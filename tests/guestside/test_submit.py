"""Requests and replies."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.doorbells import Adaptive, SpinWindow
from paravirt.guestside import Driver
from paravirt.transport import Feature
from tests.devices import ByHand, Upper, served, turns

if TYPE_CHECKING:
    import random

    from paravirt.doorbells import Doorbell
    from paravirt.hostside import Request

SIZES = [0, 1, 63, 64, 65, 4095, 4096, 4097, 70000]
NO_INDIRECT = ~int(Feature.RING_INDIRECT_DESC)
NO_EVENT_IDX = ~int(Feature.RING_EVENT_IDX)


async def test_a_request_gets_its_reply(doorbell: type[Doorbell]) -> None:
    async with served(Upper(), doorbell=doorbell) as link, Driver(link) as driver:
        assert await driver.request(b"hello", reply_size=5) == b"HELLO"
        assert await driver.request(b"hello", reply_size=3) == b"HEL"
        assert await driver.request(b"hello", reply_size=9) == b"HELLO"
        assert await driver.request(b"hello") == b""
        assert await driver.request(b"") == b""


@pytest.mark.parametrize("features", [~0, NO_INDIRECT], ids=["indirect", "direct"])
async def test_sizes_at_the_edges_of_lines_and_pages(features: int) -> None:
    device = ByHand()
    async with served(device, features=features) as link, Driver(link) as driver:
        whole = driver.free_memory
        for size, reply_size in product(SIZES, SIZES):
            async with trio.open_nursery() as nursery:
                replies: list[bytes] = []

                async def ask(size: int, reply_size: int, replies: list[bytes]) -> None:
                    replies.append(await driver.request(b"q" * size, reply_size))

                nursery.start_soon(ask, size, reply_size, replies)
                request = await device.next()
                assert (request.readable, request.writable) == (size, reply_size)
                assert request.read() == b"q" * size
                request.reply(b"a" * reply_size)
            assert replies == [b"a" * reply_size]
        assert driver.free_memory == whole


async def test_a_reply_is_never_longer_than_asked() -> None:
    """2.7.8.2: the device may claim any length."""
    device = ByHand()
    async with served(device) as link, Driver(link) as driver:
        number = driver.submit(b"data", reply_size=100)
        request = await device.next()
        request.write(b"a" * 100)
        ring = link.ring(0)
        assert ring is not None

        ring.complete([request.id], [0xFFFFFFFF])
        link.call(0).ring()

        assert await driver.reap() == [(number, b"a" * 100)]


@pytest.mark.parametrize("memory", [1 << 16, 1 << 20])
async def test_a_request_that_never_fits_is_refused(memory: int) -> None:
    async with served(Upper(), memory_size=memory) as link, Driver(link) as driver:
        before = driver.free_memory
        for data, reply_size in (bytes(memory), 0), (b"", memory), (b"", 1 << 40), (b"", -1):
            with pytest.raises(ValueError, match=f"reply of {reply_size}"):
                await driver.request(data, reply_size)
            with pytest.raises(ValueError, match=f"reply of {reply_size}"):
                await driver.request_many([(b"", 0), (data, reply_size), (b"", 0)])
            with pytest.raises(ValueError, match=f"reply of {reply_size}"):
                driver.submit(data, reply_size)

        assert driver.free_memory == before
        assert driver.statistics()[0].requests == 0


async def test_the_largest_request_fits() -> None:
    async with served(Upper(), memory_size=1 << 16) as link, Driver(link) as driver:
        size = 1 << 15
        with pytest.raises(ValueError, match=f"more than the {size} that"):
            await driver.request(bytes(size + 1))

        assert await driver.request(b"x" * (size - 64), 64) == b"X" * 64
        assert await driver.request(b"", size) == b""


async def test_what_is_no_bytes_is_refused_without_a_trace() -> None:
    async with served(Upper()) as link, Driver(link) as driver:
        before = driver.free_memory

        with pytest.raises(TypeError):
            await driver.request_many([(b"good", 4), ("bad", 3)])  # type: ignore[list-item]

        assert driver.free_memory == before
        assert await driver.request(b"good", 4) == b"GOOD"


async def test_request_many_keeps_the_order(doorbell: type[Doorbell], rng: random.Random) -> None:
    device = ByHand(8)
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        count = 50

        async def check() -> None:
            replies = await driver.request_many([(b"%d" % i, 2) for i in range(count)])
            assert replies == [b"%d" % i for i in range(count)]

        nursery.start_soon(check)
        held = await device.several(8)
        for left in range(count, 0, -1):
            request = held.pop(rng.randrange(len(held)))
            request.reply(request.read())
            if left > 8:
                held.append(await device.next())


async def test_request_many_of_nothing_is_nothing() -> None:
    async with served(Upper()) as link, Driver(link) as driver:
        assert await driver.request_many([]) == []


async def test_reap_gives_what_is_answered_by_its_number(doorbell: type[Doorbell]) -> None:
    device = ByHand(8)
    async with served(device, doorbell=doorbell) as link, Driver(link) as driver:
        assert await driver.reap() == []
        numbers = [driver.submit(b"%d" % i, 1) for i in range(4)]
        requests = await device.several(4)
        for i in 2, 0:
            requests[i].reply(b"%d" % i)

        got = await driver.reap()
        while len(got) < 2:
            got += await driver.reap()
        assert got == [(numbers[2], b"2"), (numbers[0], b"0")]
        requests[1].reply()
        assert await driver.reap() == [(numbers[1], b"")]


async def test_two_who_reap_share_what_comes() -> None:
    device = ByHand(8)
    async with served(device) as link, Driver(link) as driver:
        got: list[list[tuple[int, bytes]]] = []

        async def reap() -> None:
            got.append(await driver.reap())

        async with trio.open_nursery() as nursery:
            number = driver.submit(b"")
            nursery.start_soon(reap)
            nursery.start_soon(reap)
            await trio.testing.wait_all_tasks_blocked()
            (await device.next()).reply()

        assert sorted(got) == [[], [(number, b"")]]


async def test_a_reply_does_not_wait_for_those_of_others(doorbell: type[Doorbell]) -> None:
    """Not even for that of the caller who reaps for all."""
    device = ByHand(8)
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        answered: list[int] = []

        async def ask(number: int) -> None:
            await driver.request(b"%d" % number)
            answered.append(number)

        held: list[Request] = []
        for number in range(4):
            nursery.start_soon(ask, number)
            held.append(await device.next())
        for number in 2, 3, 1:
            held[number].reply()
            await turns()
            assert answered[-1:] == [number]
        held[0].reply()


async def test_nobody_spins_for_a_device_in_the_same_thread() -> None:
    """It could not answer meanwhile; a look of this length would never end."""

    def patient() -> Doorbell:
        return Adaptive(window=SpinWindow(10**12, fixed=True))

    async with served(Upper(), doorbell=patient) as link, Driver(link) as driver:
        assert await driver.request_many([(b"x", 1)] * 50) == [b"X"] * 50


async def test_request_and_submit_do_not_mix() -> None:
    device = ByHand(8, 8)
    async with served(device) as link, Driver(link) as driver, trio.open_nursery() as nursery:
        driver.submit(b"")
        with pytest.raises(trio.BusyResourceError):
            await driver.request(b"")
        with pytest.raises(trio.BusyResourceError):
            await driver.request_many([(b"", 0)])
        nursery.start_soon(driver.request, b"", 0, 1)
        nursery.start_soon(driver.request_many, [(b"", 0)], 1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            driver.submit(b"", queue=1)
        with pytest.raises(trio.BusyResourceError):
            await driver.reap(queue=1)
        for request in await device.several(3):
            request.reply()


async def test_request_and_submit_take_turns() -> None:
    async with served(Upper()) as link, Driver(link) as driver:
        for _ in range(3):
            number = driver.submit(b"a", 1)
            assert await driver.reap() == [(number, b"A")]
            assert await driver.request(b"b", 1) == b"B"


async def test_each_queue_answers_its_own(doorbell: type[Doorbell]) -> None:
    device = ByHand(2, 4, 8)
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):

        async def ask(queue: int) -> None:
            assert await driver.request(b"", 1, queue) == b"%d" % queue

        for _ in range(10):
            for queue in range(3):
                nursery.start_soon(ask, queue)
        for _ in range(30):
            request = await device.next()
            request.reply(b"%d" % request.queue)


@pytest.mark.parametrize("features", [~0, NO_INDIRECT, NO_EVENT_IDX, NO_INDIRECT & NO_EVENT_IDX])
@pytest.mark.parametrize("size", [2, 4, 32])
async def test_many_tasks_on_a_small_queue(
    doorbell: type[Doorbell], size: int, features: int
) -> None:
    async with (
        served(Upper(size), doorbell=doorbell, features=features) as link,
        Driver(link) as driver,
    ):
        whole = driver.free_memory

        async def ask(name: bytes) -> None:
            for i in range(5):
                text = b"%b%d" % (name, i)
                assert await driver.request(text, 9) == text.upper()
            assert await driver.request_many([(name, 9)] * 5) == [name.upper()] * 5

        async with trio.open_nursery() as nursery:
            for i in range(10):
                nursery.start_soon(ask, b"task%d" % i)
        assert driver.free_memory == whole


@pytest.mark.parametrize("features", [~0, NO_INDIRECT], ids=["indirect", "direct"])
async def test_a_queue_of_one_takes_one_buffer_a_request(features: int) -> None:
    """2.7.5.3.1: a chain is never longer than the queue."""
    async with served(Upper(1), features=features) as link, Driver(link) as driver:
        with pytest.raises(ValueError, match="queue of at least 2"):
            await driver.request(b"x", 1)

        assert await driver.request(b"x") == b""
        assert await driver.request(b"", 1) == b""
        assert await driver.request_many([(b"x", 0), (b"", 1)] * 10) == [b""] * 20


async def test_indices_wrap_around() -> None:
    async with served(Upper(256)) as link, Driver(link) as driver:
        texts = [b"%d" % i for i in range(300)]
        for _ in range(230):
            assert await driver.request_many([(text, 3) for text in texts]) == texts

        assert driver.statistics()[0].requests > 1 << 16


async def test_a_batch_is_one_kick() -> None:
    device = ByHand(16)
    async with served(device) as link, Driver(link) as driver, trio.open_nursery() as nursery:
        nursery.start_soon(driver.request_many, [(b"", 0)] * 16)
        await trio.testing.wait_all_tasks_blocked()
        (before,) = driver.statistics()
        for request in await device.several(16):
            request.reply()
        await trio.testing.wait_all_tasks_blocked()
        (after,) = driver.statistics()

    assert (before.requests, before.kicks, before.in_flight) == (16, 1, 16)
    assert (after.requests, after.kicks, after.in_flight) == (16, 1, 0)
    assert link.kick(0).statistics().rings <= 2  # and one by the queue's end
