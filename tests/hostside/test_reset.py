"""A reset: handlers are cancelled, and nothing touches the driver's memory any more."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import KINDS, Direct
from paravirt.guestside import SyncDriver
from paravirt.hostside import Device, Request, serve
from paravirt.transport import loopback

from .serving import Echo, Hand, Outcome, Parked, by_hand, served, settled, until

if TYPE_CHECKING:
    from trio.testing import MockClock

    from paravirt.doorbells import Doorbell, DoorbellMaker
    from paravirt.transport import Loopback


async def test_a_reset_cancels_the_handlers(doorbell: DoorbellMaker) -> None:
    device = Parked()
    async with served(device, doorbell) as it:
        for name in (b"a", b"b"):
            it.driver.submit(name, 8)
        await until(lambda: len(device.entered) == 2)
        await it.driver.reset()

        assert sorted(device.cancelled) == [b"a", b"b"]
        device.let_go(b"c")
        assert await it.driver.request(b"c", 8) == b"c"


async def test_requests_that_were_fetched_and_not_begun_are_dropped(
    autojump_clock: MockClock,
) -> None:
    device = Parked()
    device.concurrency = 1
    async with served(device) as it:
        for name in (b"a", b"b", b"c"):
            it.driver.submit(name, 8)
        await settled()
        await it.driver.reset()
        device.let_go(b"d")

        assert await it.driver.request(b"d", 8) == b"d"
        assert device.entered == [b"a", b"d"]


async def test_the_driver_that_waits_is_told(doorbell: DoorbellMaker) -> None:
    device = Parked()
    async with served(device, doorbell) as it, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await it.driver.request(b"a", 8)

        nursery.start_soon(ask)
        await until(lambda: device.entered != [])
        await it.driver.reset()


async def test_the_status_reads_zero_when_the_handlers_are_gone(autojump_clock: MockClock) -> None:
    """2.4.1."""

    class Lingers(Echo):
        async def handle(self, request: Request) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(5)
                    request.write(b"late")

    async with by_hand(Lingers()) as hand:
        room = hand.offer(b"a", 8)
        hand.show()
        await settled()
        await hand.link.set_status(0)
        await trio.sleep(4)
        assert await hand.link.get_status() != 0
        await trio.sleep(2)
        assert await hand.link.get_status() == 0

        assert hand.memory.read(room, 4) == b"late"


async def test_the_status_reads_zero_when_no_thread_can_write_any_more(
    doorbell: DoorbellMaker,
) -> None:
    """2.4.1: a thread is waited for, since nothing can stop it."""

    class InThread(Echo):
        def __init__(self) -> None:
            self.entered = threading.Event()
            self.leave = threading.Event()

        async def handle(self, request: Request) -> None:
            await trio.to_thread.run_sync(self.work, request)

        def work(self, request: Request) -> None:
            fd = os.memfd_create("paravirt-test")
            os.write(fd, b"from a file")
            self.entered.set()
            self.leave.wait()
            request.write_from_file(fd, 0, 8)
            os.close(fd)

    device = InThread()
    async with by_hand(device, doorbell=doorbell) as hand:
        room = hand.offer(b"a", 8)
        hand.show()
        await until(device.entered.is_set)
        await hand.link.set_status(0)
        for _ in range(50):
            assert await hand.link.get_status() != 0
        device.leave.set()
        while await hand.link.get_status() != 0:
            pass

        assert hand.memory.read(room, 8) == b"from a f"


async def test_run_is_waited_for(autojump_clock: MockClock) -> None:
    class Lingers(Echo):
        async def run(self, nursery: trio.Nursery) -> None:
            del nursery
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(5)

    async with by_hand(Lingers()) as hand:
        await hand.link.set_status(0)
        await trio.sleep(4)
        assert await hand.link.get_status() != 0
        await trio.sleep(2)
        assert await hand.link.get_status() == 0


# What outlives it.


class Keeps(Device):
    """Keeps each request, in a task that a reset does not end."""

    device_id = 42
    queue_sizes = (16,)
    taken_queues = (0,)


async def keep_over_reset(hand: Hand, device: Device, room: int = 8) -> tuple[Request, int]:
    """Take a request, reset the device, and return it with the address of its reply."""
    where = hand.offer(b"data", room)
    hand.show()
    request = await device.queue(0).take()
    await hand.link.set_status(0)
    await settled()
    assert await hand.link.get_status() == 0
    hand.memory.write(where, b"." * room)
    return request, where


async def test_a_request_that_outlives_its_queue_reads_as_empty(autojump_clock: MockClock) -> None:
    device = Keeps()
    async with by_hand(device) as hand:
        request, _ = await keep_over_reset(hand, device)

        assert request.read() == b""
        assert request.open


async def test_a_request_that_outlives_its_queue_writes_nothing(autojump_clock: MockClock) -> None:
    """The driver may use its memory for something else."""
    device = Keeps()
    fd = os.memfd_create("paravirt-test")
    os.write(fd, b"from a file")
    async with by_hand(device) as hand:
        request, where = await keep_over_reset(hand, device)
        before = hand.memory.read(*hand.link.pool)
        assert request.write(b"late") == 0
        assert request.write_at(4, b"late") == 0
        assert request.write_from_file(fd, 0, 8) == 0
        assert request.read_to_file(fd, 0, 4) == 0
        assert request.reply(b"late") == 0

        assert hand.memory.read(*hand.link.pool) == before
        assert hand.memory.read(where, 8) == b"." * 8
        with pytest.raises(RuntimeError):
            request.reply()
    assert os.pread(fd, 20, 0) == b"from a file"
    os.close(fd)


async def test_a_late_reply_is_counted_and_the_next_life_unharmed(
    autojump_clock: MockClock,
) -> None:
    device = Keeps()
    async with served(device) as it:
        it.driver.submit(b"old", 8)
        await settled()
        queue = device.queue(0)
        old = await queue.take()
        await it.driver.reset()
        number = it.driver.submit(b"new", 8)
        await settled()
        new = await device.queue(0).take()
        old.reply(b"old")
        assert queue.statistics().stale == 1
        new.reply(b"new")

        assert await it.driver.reap() == [(number, b"new")]
        assert device.statistics().queues[0].stale == 0
        assert device.statistics().queues[0].completed == 1


async def test_a_request_that_outlives_the_server_does_nothing(autojump_clock: MockClock) -> None:
    device = Keeps()
    async with served(device) as it:
        it.driver.submit(b"old", 8)
        await settled()
        request = await device.queue(0).take()

    assert request.read() == b""
    assert request.reply(b"late") == 0


async def test_nothing_is_kept_of_an_earlier_life(autojump_clock: MockClock) -> None:
    device = Parked()
    device.concurrency = 1
    async with served(device) as it:
        for name in (b"a", b"b", b"c"):
            it.driver.submit(name, 8)
        await settled()
        queue = weakref.ref(device.queue(0))
        ring = weakref.ref(device.queue(0).ring)
        await it.driver.reset()
        await settled()
        device.gates.clear()
        gc.collect()

        assert queue() is None
        assert ring() is None


async def test_a_request_that_is_kept_does_not_keep_guest_memory(
    autojump_clock: MockClock,
) -> None:
    device = Keeps()
    async with by_hand(device) as hand:
        hand.offer(b"data", 8)
        hand.show()
        request = await device.queue(0).take()
        ring = weakref.ref(device.queue(0).ring)
        await hand.link.set_status(0)
        await settled()
        gc.collect()

        assert ring() is None
        assert request.queue == 0


async def test_a_device_that_keeps_requests_can_be_collected() -> None:
    """A request is not seen by the garbage collector, so that it must not close a circle."""

    class Hoards(Keeps):
        kept: list[Request]

    device = Hoards()
    async with by_hand(device) as hand:
        hand.offer(b"data", 8)
        hand.show()
        device.kept = [await device.queue(0).take()]
    gone = weakref.ref(device)
    del device
    gc.collect()

    assert gone() is None


# Under load.


async def test_resets_under_load(autojump_clock: MockClock) -> None:
    class Pauses(Parked):
        async def handle(self, request: Request) -> None:
            if request.readable % 2:
                await trio.sleep(0.5)
            request.reply(request.read())

    async with served(Pauses()) as it:
        for round_ in range(30):
            for i in range(16):
                it.driver.submit(b"x" * (i % 5), 8)
            await trio.sleep(0.1 * (round_ % 7))
            await it.driver.reset()
        requests = [(b"%d" % i, 8) for i in range(100)]

        assert await it.driver.request_many(requests) == [data for data, _ in requests]


async def test_two_resets_in_a_row_are_two(autojump_clock: MockClock) -> None:
    device = Echo()
    async with served(device) as it:
        before = device.statistics().resets
        await it.driver.reset()
        await it.driver.reset()

        assert device.statistics().resets == before + 2


async def test_a_device_is_reset_before_its_queues_were_seen(autojump_clock: MockClock) -> None:
    device = Echo()
    link = loopback(device, doorbell=Direct)
    async with trio.open_nursery() as nursery:
        await nursery.start(Outcome().serve, device, link)
        hand = Hand(link)
        await hand.begin()
        await hand.go()
        await link.set_status(0)
        await settled()
        assert await link.get_status() == 0
        hand = Hand(link)
        await hand.begin()
        await hand.go()
        hand.offer(b"x", 8)
        hand.show()
        await settled()

        assert hand.back() == 1
        link.close()


async def test_a_peer_that_goes_during_a_reset_ends_the_server(autojump_clock: MockClock) -> None:
    device = Parked()
    server = Outcome()
    async with by_hand(device, outcome=server) as hand:
        hand.offer(b"a", 8)
        hand.show()
        await settled()
        await hand.link.set_status(0)
        hand.link.close_driver_end()
        await server.ended.wait()

    assert server.error is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Direct])
async def test_a_driver_in_another_thread_resets_under_load(kind: type[Doorbell]) -> None:
    device = Parked()
    link = loopback(device, doorbell=kind)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        await trio.to_thread.run_sync(reset_repeatedly, link, device)
        link.close()

    assert device.left == [b"last"]
    assert sorted([*device.cancelled, b"last"]) == sorted(device.entered)


def reset_repeatedly(link: Loopback, device: Parked) -> None:
    with SyncDriver(link) as driver:
        for life in range(5):
            for i in range(16):
                driver.submit(b"%d-%d" % (life, i), 8)
            driver.reset()
        device.let_go(b"last")
        assert driver.request(b"last", 8) == b"last"
