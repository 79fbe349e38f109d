"""The pool of workers: bounded, elastic, and never in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.abc import Instrument

from paravirt.hostside import Device, Request

from .serving import Parked, by_hand, served, settled, until

if TYPE_CHECKING:
    from trio.testing import MockClock

    from paravirt.doorbells import DoorbellMaker


def names(count: int) -> list[bytes]:
    return [b"%d" % i for i in range(count)]


# The decisive test.


async def test_a_suspended_handler_answers_although_the_queue_is_parked(
    doorbell: DoorbellMaker,
) -> None:
    device = Parked()
    async with served(device, doorbell) as it:
        number = it.driver.submit(b"one", 8)
        await until(lambda: device.entered != [])
        for _ in range(20):  # long enough for the queue's task to park
            await trio.lowlevel.checkpoint()
        kicks = it.rings
        device.let_go(b"one")

        assert await it.driver.reap() == [(number, b"one")]
        assert it.rings == kicks


@pytest.mark.parametrize("steps", range(8))
async def test_a_handler_that_ends_while_the_queue_is_about_to_park_answers(
    autojump_clock: MockClock, steps: int
) -> None:
    device = Parked()
    async with served(device) as it:
        it.driver.submit(b"one", 8)
        it.nursery.start_soon(let_go_after, device, steps)
        with trio.fail_after(1):
            assert await it.driver.reap() == [(1, b"one")]


async def let_go_after(device: Parked, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    device.let_go(b"one")


class HandsOver(Device):
    """Leaves a request to another task, and waits for ever, or until it was replied to."""

    device_id = 42
    queue_sizes = (16,)

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.gate = trio.Event()

    async def handle(self, request: Request) -> None:
        self.requests.append(request)
        if request.read() == b"ends":
            await self.gate.wait()
        else:
            await trio.sleep_forever()


async def test_a_reply_from_another_task_needs_no_kick(doorbell: DoorbellMaker) -> None:
    device = HandsOver()
    async with served(device, doorbell) as it:
        it.driver.submit(b"one", 8)
        await until(lambda: device.requests != [])
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        kicks = it.rings
        device.requests[0].reply(b"late")

        assert await it.driver.reap() == [(1, b"late")]
        assert it.rings == kicks


async def test_a_reply_from_another_task_is_shown_after_another_handler_ended(
    autojump_clock: MockClock,
) -> None:
    device = HandsOver()
    async with by_hand(device) as hand:
        hand.offer(b"stays", 8)
        hand.offer(b"ends", 8)
        hand.show()
        await settled()
        device.gate.set()
        await settled()
        assert hand.back() == 1
        device.requests[0].reply(b"late")

        assert hand.back() == 1


# Overtaking and bounds.


async def test_suspended_handlers_are_overtaken(doorbell: DoorbellMaker) -> None:
    device = Parked()
    async with served(device, doorbell) as it:
        for name in names(5):
            it.driver.submit(name, 8)
        for name in reversed(names(5)):
            await until(lambda: len(device.entered) == 5)
            device.let_go(name)
            assert [reply for _, reply in await it.driver.reap()] == [name]

    assert device.entered == names(5)


async def test_what_suspends_does_not_hold_up_what_does_not(doorbell: DoorbellMaker) -> None:
    class Mixed(Parked):
        async def handle(self, request: Request) -> None:
            if request.readable > 1:
                await super().handle(request)

    device = Mixed()
    async with served(device, doorbell) as it:
        it.driver.submit(b"slow", 8)
        await until(lambda: device.entered != [])
        for _ in range(40):
            number = it.driver.submit(b"x", 8)
            assert await it.driver.reap() == [(number, b"")]

    assert device.left == []


@pytest.mark.parametrize(("concurrency", "bound"), [(1, 1), (2, 2), (15, 15), (None, 16), (99, 16)])
async def test_so_many_handlers_are_suspended_at_most(
    autojump_clock: MockClock, concurrency: int | None, bound: int
) -> None:
    device = Parked()
    device.concurrency = concurrency
    async with served(device) as it:
        for name in names(16):
            it.driver.submit(name, 8)
        await settled()
        assert len(device.entered) == bound
        for done, name in enumerate(names(16), 1):
            device.let_go(name)
            await settled()
            assert len(device.entered) == min(16, bound + done)

        assert sorted(reply for _, reply in await it.driver.reap()) == sorted(names(16))


async def test_at_the_bound_what_is_done_is_shown(autojump_clock: MockClock) -> None:
    """Nobody else would come by and publish it."""

    class QuickThenSlow(Parked):
        concurrency = 1

        async def handle(self, request: Request) -> None:
            if request.readable > 1:
                await super().handle(request)

    async with served(QuickThenSlow()) as it:
        it.driver.submit(b"a", 8)
        it.driver.submit(b"slow", 8)
        with trio.fail_after(1):
            assert await it.driver.reap() == [(1, b"")]


async def test_parked_handlers_of_one_queue_do_not_hold_up_another(
    doorbell: DoorbellMaker,
) -> None:
    class TwoQueues(Parked):
        queue_sizes = (4, 4)
        concurrency = 2

        async def handle(self, request: Request) -> None:
            if request.queue == 0:
                await super().handle(request)
            else:
                request.reply(b"on")

    device = TwoQueues()
    async with served(device, doorbell) as it:
        for name in names(4):
            it.driver.submit(name, 8, queue=0)
        await until(lambda: len(device.entered) == 2)
        for _ in range(20):
            assert await it.driver.request(b"", 8, queue=1) == b"on"

    assert device.left == []


class Meeting(Device):
    """The first handler of each pair waits for the second, and takes it along when it leaves."""

    device_id = 42
    queue_sizes = (16,)

    def __init__(self) -> None:
        self.waits: trio.Event | None = None

    async def handle(self, request: Request) -> None:
        if self.waits is None:
            self.waits = trio.Event()
            await self.waits.wait()
        else:
            self.waits.set()
            self.waits = None
            await trio.lowlevel.checkpoint()
        request.reply(request.read())


async def test_handlers_that_wait_for_each_other_all_finish(autojump_clock: MockClock) -> None:
    """A worker that resumes must not fetch new requests over those that another has not begun."""
    async with served(Meeting()) as it:
        for round_ in range(100):
            requests = [(b"%d" % i, 8) for i in range(2 + 2 * (round_ % 14))]
            with trio.fail_after(1):
                replies = await it.driver.request_many(requests)
            assert replies == [data for data, _ in requests]


# Elasticity.


class CountsTasks(Instrument):
    """Counts the tasks that begin, and those alive."""

    def __init__(self) -> None:
        self.spawned = 0
        self.alive = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        del task
        self.spawned += 1
        self.alive += 1

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        del task
        self.alive -= 1


class Quick(Device):
    """Async, and never suspended."""

    device_id = 42
    queue_sizes = (64,)

    async def handle(self, request: Request) -> None:
        request.reply(request.read())


async def test_a_handler_that_does_not_suspend_costs_no_task(doorbell: DoorbellMaker) -> None:
    async with served(Quick(), doorbell) as it:
        await it.driver.request(b"first", 8)
        counts = CountsTasks()
        trio.lowlevel.add_instrument(counts)
        await it.driver.request_many([(b"x", 8)] * 2000)

    assert counts.spawned <= 1


async def test_a_plain_handler_needs_one_task(autojump_clock: MockClock) -> None:
    class Plain(Device):
        device_id = 42
        queue_sizes = (64,)

        def handle(self, request: Request) -> None: ...

    async with served(Plain()) as it:
        await it.driver.request(b"first", 8)
        counts = CountsTasks()
        trio.lowlevel.add_instrument(counts)
        await it.driver.request_many([(b"x", 8)] * 2000)

    assert counts.spawned == 0


async def test_handlers_that_suspend_share_the_workers_there_are(
    autojump_clock: MockClock,
) -> None:
    class Pauses(Quick):
        async def handle(self, request: Request) -> None:
            await trio.lowlevel.checkpoint()
            await super().handle(request)

    async with served(Pauses()) as it:
        counts = CountsTasks()
        trio.lowlevel.add_instrument(counts)
        await it.driver.request_many([(b"x", 8)] * 2000)

        assert counts.spawned < 500


async def test_workers_with_nothing_to_do_go(autojump_clock: MockClock) -> None:
    device = Parked()
    async with served(device) as it:
        await settled()
        counts = CountsTasks()
        trio.lowlevel.add_instrument(counts)
        for name in names(16):
            it.driver.submit(name, 8)
        await settled()
        assert counts.alive == 16 - 1  # one was there
        for name in names(16):
            device.let_go(name)
        await settled()

        assert counts.alive <= 5  # four kept for the next burst, and the parent of all
        assert len(await it.driver.reap()) == 16


async def test_the_pool_grows_again(autojump_clock: MockClock) -> None:
    device = Parked()
    async with served(device) as it:
        for _ in range(3):
            for name in names(16):
                it.driver.submit(name, 8)
            await settled()
            assert len(device.gates) == 16
            for name in names(16):
                device.let_go(name)
            await settled()
            assert len(await it.driver.reap()) == 16
            device.gates.clear()
