"""The driver without trio, and the one in a trio run of its own, each in another thread."""

from __future__ import annotations

import struct
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from paravirt.doorbells import Direct, Doorbell, EventFd
from paravirt.guestside import DeviceNeedsReset, Driver, SyncDriver
from paravirt.hostside import Device, Request, RequestError, serve
from paravirt.transport import Faults, Loopback, NegotiationError, RingBroken, loopback
from tests.devices import ByHand, Level, Tank, Upper, served

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def in_thread(link: Loopback, work: Callable[[SyncDriver], T]) -> T:
    """Let `work` use a driver in a thread of its own."""

    def run() -> T:
        with SyncDriver(link) as driver:
            return work(driver)

    return await trio.to_thread.run_sync(run)


class Breakable(Device):
    """Breaks when it is told to; answers everything else with its own data."""

    device_id = 42
    queue_sizes = (8,)

    def handle(self, request: Request) -> None:
        data = request.read()
        if data == b"break":
            raise RequestError(1)
        request.reply(data)


async def test_requests_from_a_thread(between: type[Doorbell]) -> None:
    def work(driver: SyncDriver) -> None:
        whole = driver.free_memory
        assert driver.request(b"hello", 5) == b"HELLO"
        assert driver.request(b"hello") == b""
        texts = [b"%d" % i for i in range(100)]
        assert driver.request_many([(text, 3) for text in texts]) == texts
        assert driver.request_many([]) == []
        assert driver.queues == 1
        assert driver.free_memory == whole

    async with served(Upper(4), doorbell=between) as link:
        await in_thread(link, work)
        assert await link.get_status() == 0


async def test_submit_and_reap_from_a_thread(between: type[Doorbell]) -> None:
    def work(driver: SyncDriver) -> None:
        assert driver.reap() == []
        numbers = [driver.submit(b"x", 1) for _ in range(4)]
        with pytest.raises(trio.WouldBlock):
            driver.submit(b"x", 1)
        with pytest.raises(trio.BusyResourceError):
            driver.request(b"x", 1)
        got = driver.reap()
        while len(got) < 4:
            got += driver.reap()
        assert got == [(number, b"X") for number in numbers]

    async with served(Upper(4), doorbell=between) as link:
        await in_thread(link, work)


async def test_requests_that_never_fit_are_refused() -> None:
    def work(driver: SyncDriver) -> None:
        for use in driver.request, driver.submit:
            with pytest.raises(ValueError, match="more than"):
                use(bytes(1 << 20))

    async with served(Upper(4), doorbell=EventFd) as link:
        await in_thread(link, work)


async def test_configuration_from_a_thread(between: type[Doorbell]) -> None:
    def work(driver: SyncDriver) -> None:
        assert driver.read_config(Level) == Level(0)
        driver.write_config(0, (7).to_bytes(4, "little"))
        driver.config_changed()
        assert driver.read_config(Level) == Level(7)
        with pytest.raises(NegotiationError, match="no level"):
            driver.write_config(0, (101).to_bytes(4, "little"))

    async with served(Tank(), doorbell=between) as link:
        await in_thread(link, work)


async def test_a_change_wakes_a_thread() -> None:
    device = Tank()
    ready = threading.Event()

    def work(driver: SyncDriver) -> int:
        driver.read_config(Level)
        ready.set()
        driver.config_changed()
        return driver.read_config(Level).level

    async def change() -> None:
        await trio.to_thread.run_sync(ready.wait)
        device.config = Level(5)

    async with served(device, doorbell=EventFd) as link, trio.open_nursery() as nursery:
        nursery.start_soon(change)
        assert await in_thread(link, work) == 5


async def test_needs_reset_from_a_thread(between: type[Doorbell]) -> None:
    def work(driver: SyncDriver) -> None:
        whole = driver.free_memory
        for _ in range(3):
            with pytest.raises(DeviceNeedsReset):
                driver.request(b"break", 1)
            with pytest.raises(DeviceNeedsReset):
                driver.request(b"x", 1)
            driver.reset()
            assert driver.request(b"x", 1) == b"x"
        assert driver.free_memory == whole

    async with served(Breakable(), doorbell=between) as link:
        await in_thread(link, work)


async def test_a_reset_from_a_thread_loses_what_is_out(between: type[Doorbell]) -> None:
    def work(driver: SyncDriver) -> None:
        driver.submit(b"x", 1)
        driver.reset()
        assert driver.reap() == []

    async with served(ByHand(), doorbell=between) as link:
        await in_thread(link, work)


async def test_the_end_of_the_device_wakes_a_thread(between: type[Doorbell]) -> None:
    device = ByHand(2)

    def work(driver: SyncDriver) -> None:
        with pytest.raises(trio.BrokenResourceError):
            driver.request_many([(b"x", 1)] * 5)
        with pytest.raises(trio.BrokenResourceError):
            driver.request(b"x", 1)

    async with served(device, doorbell=between) as link, trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, link, work)
        await device.several(2)
        link.close_device_end()


async def test_what_was_answered_before_the_end_reaches_a_thread(between: type[Doorbell]) -> None:
    device = ByHand(2)
    ended = threading.Event()

    def work(driver: SyncDriver) -> None:
        answered, _ = driver.submit(b"x", 1), driver.submit(b"x", 1)
        ended.wait()
        assert driver.reap() == [(answered, b"y")]
        with pytest.raises(trio.BrokenResourceError):
            driver.reap()

    async with served(device, doorbell=between) as link, trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, link, work)
        request, _ = await device.several(2)
        request.reply(b"y")
        link.close_device_end()
        ended.set()


async def test_a_lie_in_the_ring_reaches_a_thread(between: type[Doorbell]) -> None:
    """2.7.8."""
    device = ByHand(2)

    def work(driver: SyncDriver) -> None:
        with pytest.raises(RingBroken):
            driver.request(b"x", 1)

    async with served(device, doorbell=between) as link, trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, link, work)
        await device.next()
        ring = link.ring(0)
        assert ring is not None
        link.memory.write(ring.geometry.device + 2, struct.pack("<H", 9))
        link.call(0).ring()


async def test_memory_that_other_queues_have_is_waited_for(between: type[Doorbell]) -> None:
    device = ByHand(2, 2, 2)
    asked = threading.Event()

    def work(driver: SyncDriver) -> None:
        driver.submit(b"slow", 0, queue=1)
        driver.submit(b"", 1 << 15, queue=2)
        asked.set()
        assert driver.request(b"", 1 << 15, queue=0) == b""

    async with (
        served(device, doorbell=between, memory_size=1 << 16) as link,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(in_thread, link, work)
        slow, large = sorted(await device.several(2), key=lambda request: request.queue)
        await trio.to_thread.run_sync(asked.wait)
        large.reply()
        last = await device.next()
        assert last.queue == 0
        last.reply()
        slow.reply()


async def test_memory_that_a_broken_queue_has_is_not_waited_for() -> None:
    device = ByHand(2, 2)

    def work(driver: SyncDriver) -> None:
        driver.submit(b"", 1 << 15, queue=0)
        with pytest.raises(RingBroken):
            driver.reap()
        with pytest.raises(MemoryError, match="reset"):
            driver.request(b"", 1 << 15, queue=1)

    async with (
        served(device, doorbell=EventFd, memory_size=1 << 16) as link,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(in_thread, link, work)
        await device.next()
        ring = link.ring(0)
        assert ring is not None
        link.memory.write(ring.geometry.device + 2, struct.pack("<H", 9))
        link.call(0).ring()


async def test_inside_trio_it_is_refused() -> None:
    async with served(Upper(), doorbell=EventFd) as link:
        with pytest.raises(RuntimeError, match="use Driver"):
            SyncDriver(link).__enter__()

        assert await link.get_status() == 0


@pytest.mark.parametrize("faults", [None, Faults()], ids=["plain", "with faults"])
async def test_a_direct_doorbell_is_refused(faults: Faults | None) -> None:
    async with served(Upper(), doorbell=Direct, faults=faults) as link:
        with pytest.raises(RuntimeError, match="use EventFd"):
            await in_thread(link, lambda _: None)

        async with Driver(link) as driver:  # the device was not touched
            assert await driver.request(b"x", 1) == b"X"


async def test_it_is_closed_before_and_after() -> None:
    async with served(Upper(), doorbell=EventFd) as link:
        driver = SyncDriver(link)
        await trio.to_thread.run_sync(_check_closed, driver)
        await trio.to_thread.run_sync(_enter_and_leave, driver)
        await trio.to_thread.run_sync(_check_closed, driver)


def _enter_and_leave(driver: SyncDriver) -> None:
    with driver:
        assert driver.request(b"x", 1) == b"X"


def _check_closed(driver: SyncDriver) -> None:
    uses: list[Callable[[], object]] = [
        partial(driver.request, b"x"),
        partial(driver.request_many, [(b"x", 1)]),
        partial(driver.submit, b"x"),
        driver.reap,
        driver.reset,
    ]
    for use in uses:
        with pytest.raises(trio.ClosedResourceError, match="not open"):
            use()


async def test_leaving_is_fine_when_the_device_went_first() -> None:
    async with served(Upper(), doorbell=EventFd) as link:
        await in_thread(link, lambda _: link.close_device_end())


def test_the_server_may_be_the_one_in_a_thread(between: type[Doorbell]) -> None:
    """The caller then has no trio at all; it waits in the doorbell itself."""
    device = Upper(4)
    link = loopback(device, doorbell=between)
    thread = threading.Thread(target=trio.run, args=(serve, device, link))
    thread.start()
    try:
        with SyncDriver(link) as driver:
            assert driver.request_many([(b"x", 1)] * 50) == [b"X"] * 50
    finally:
        link.close()
        thread.join()
