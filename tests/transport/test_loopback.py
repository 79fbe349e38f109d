"""Both ends of a link in one object."""

from __future__ import annotations

import gc
import os
from itertools import count

import pytest
import trio
import trio.testing

from paravirt.doorbells import Adaptive, Direct, Doorbell, EventFd, Polling
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.transport import Feature, Loopback, NegotiationError, Status, loopback
from paravirt.transport.link import DriverReady, QueueStart
from tests.devices import Level, Tank, Upper, served, turns

ACK, DRIVER, FEATURES_OK, DRIVER_OK = 1, 3, 11, 15  # the status after each step


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def test_nothing_is_started() -> None:
    before = trio.lowlevel.current_statistics().tasks_living

    link = loopback(Upper(), doorbell=Direct)

    assert trio.lowlevel.current_statistics().tasks_living == before
    assert await link.get_status() == 0
    assert not link.concurrent
    assert not link.gone


async def test_the_device_is_shown() -> None:
    device = Upper(4, 8)
    device.features = 1 << 5

    link = loopback(device, doorbell=Direct)

    assert link.device_id == 42
    assert link.queue_sizes == [4, 8]
    ring = Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX | Feature.VERSION_1
    assert link.device_features == ring | 1 << 5


def test_makers_choose_each_doorbell() -> None:
    link = loopback(Upper(), doorbell=Polling, call_doorbell=Adaptive)

    assert link.kick(0).name == Polling.name
    assert isinstance(link.call(0), Adaptive)
    link.close()


def test_one_maker_makes_both_kick_and_call() -> None:
    link = loopback(Upper(), doorbell=Adaptive)

    assert link.kick(0).name == Adaptive.name
    assert isinstance(link.call(0), Adaptive)
    assert link.kick(0) is not link.call(0)
    link.close()


def test_direct_takes_no_descriptors_but_the_memorys() -> None:
    before = descriptors()

    link = loopback(Upper(4, 4), doorbell=lambda: Direct())

    assert descriptors() == before + 1
    link.close()
    assert descriptors() == before


@pytest.mark.parametrize(
    "mask", [~int(Feature.RING_EVENT_IDX), ~Feature.RING_EVENT_IDX], ids=["int", "flag"]
)
def test_features_are_masked(mask: int) -> None:
    """The complement of a flag has no bits above the flags' own on Python 3.11."""
    device = Upper()
    device.features = 1 << 5 | 1 << 50

    link = loopback(device, doorbell=Direct, features=mask)

    assert link.device_features == Feature.RING_INDIRECT_DESC | Feature.VERSION_1 | device.features


def with_size(size: int) -> Upper:
    return Upper(8, size)


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_a_device_that_virtio_forbids_is_refused(size: int) -> None:
    """2.7."""
    before = descriptors()

    with pytest.raises(ValueError, match="power of two"):
        loopback(with_size(size))

    assert descriptors() == before


def test_a_device_without_version_1_is_refused() -> None:
    """6.2."""
    with pytest.raises(ValueError, match="VERSION_1"):
        loopback(Upper(), features=~int(Feature.VERSION_1))


@pytest.mark.parametrize("good", range(4))
def test_a_maker_that_fails_leaves_nothing_open(good: int) -> None:
    calls = count()

    def maker() -> Doorbell:
        if next(calls) == good:
            raise OSError(24, "too many open files")
        return EventFd()

    before = descriptors()

    with pytest.raises(OSError, match="too many"):
        loopback(Upper(8, 8), doorbell=maker)

    assert descriptors() == before


async def test_what_the_driver_must_not_do_is_refused() -> None:
    """3.1.1."""
    link = loopback(Upper(), doorbell=Direct)
    await link.set_status(ACK)

    with pytest.raises(NegotiationError):
        await link.set_status(DRIVER_OK)
    with pytest.raises(NegotiationError):
        await link.set_features(0)
    with pytest.raises(NegotiationError):
        await link.set_queue(0, 8, 1 << 20, 2 << 20, 3 << 20)

    assert await link.get_status() == ACK


async def test_queues_start_with_driver_ok() -> None:
    """3.1.1: not before DRIVER_OK, and only those that were enabled."""
    link = loopback(Upper(8, 8, 8), doorbell=Direct)
    await link.set_status(ACK)
    await link.set_status(DRIVER)
    await link.set_features(link.device_features)
    await link.set_status(FEATURES_OK)
    for queue in 0, 2:
        base = (queue + 1) << 20
        await link.set_queue(queue, 8, base, base + 0x1000, base + 0x2000)
    assert link.ring(0) is None

    await link.set_status(DRIVER_OK)

    first, second, third = [await link.next_change() for _ in range(3)]
    assert isinstance(first, QueueStart)
    assert isinstance(second, QueueStart)
    assert [(start.queue, start.ring) for start in (first, second)] == [
        (0, link.ring(0)),
        (2, link.ring(2)),
    ]
    assert first.kick is link.kick(0)
    assert first.call is link.call(0)
    assert first.ring.geometry.features == link.device_features
    assert not first.ring.concurrent
    assert isinstance(third, DriverReady)


async def test_a_reset_is_over_when_the_device_says_so() -> None:
    """2.4.2."""
    link = loopback(Upper(), doorbell=Direct)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.next_change)  # somebody serves
        await link.set_status(ACK)
        await link.set_status(0)

        assert await link.get_status() == ACK
        with pytest.raises(NegotiationError):
            await link.set_status(ACK)
    link.close()


async def test_a_reset_takes_back_what_was_not_begun() -> None:
    device = Upper()
    link = loopback(device, doorbell=Direct)
    async with Driver(link):
        pass

    assert await link.get_status() == 0
    link.close_driver_end()
    assert await link.next_change() is None


async def test_a_reset_waits_for_the_handlers() -> None:
    """2.4.1: nothing touches the driver's memory any more."""
    device = SlowToLeave()
    async with served(device) as link, Driver(link):
        await device.running.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.set_status, 0)
            await trio.testing.wait_all_tasks_blocked()
            assert await link.get_status() == DRIVER_OK
            device.leave.set()
            await trio.testing.wait_all_tasks_blocked()
            assert await link.get_status() == 0


class SlowToLeave(Upper):
    def __init__(self) -> None:
        super().__init__()
        self.running = trio.Event()
        self.leave = trio.Event()

    async def run(self, nursery: trio.Nursery) -> None:
        del nursery
        self.running.set()
        with trio.CancelScope(shield=True):
            await self.leave.wait()


async def test_needs_reset_is_told_once(doorbell: type[Doorbell]) -> None:
    """2.1.2."""
    async with served(Upper(), doorbell=doorbell) as link, Driver(link) as driver:
        assert not link.needs_reset
        link.need_reset()
        link.need_reset()

        assert link.needs_reset
        assert Status.DEVICE_NEEDS_RESET in await link.get_status()
        await driver.reset()
        assert not link.needs_reset


async def test_the_device_may_speak_after_the_end() -> None:
    """A handler that outlives the link must not fail because of it."""
    link = loopback(Tank(), doorbell=EventFd)
    link.close()

    link.need_reset()
    link.set_config(Level(1).to_bytes())
    link.signal_error(0)
    link.close()

    assert not link.needs_reset


async def test_a_configuration_of_another_length_is_refused() -> None:
    link = loopback(Tank(), doorbell=Direct)

    with pytest.raises(ValueError, match="9 bytes"):
        link.set_config(bytes(9))


async def test_the_drivers_end_hears_that_the_devices_is_gone(doorbell: type[Doorbell]) -> None:
    link = loopback(Tank(), doorbell=doorbell)
    link.close_device_end()

    assert link.gone
    await _all_raise(link, trio.BrokenResourceError)
    link.close()
    await _all_raise(link, trio.ClosedResourceError)


async def _all_raise(link: Loopback, error: type[Exception]) -> None:
    uses = [
        link.get_status(),
        link.set_status(0),
        link.set_features(0),
        link.set_queue(0, 8, 0, 0, 0),
        link.read_config(0, 1),
        link.write_config(0, b"1"),
    ]
    for use in uses:
        with pytest.raises(error):
            await use


async def test_the_server_returns_when_the_drivers_end_closes(doorbell: type[Doorbell]) -> None:
    device = Upper()
    link = loopback(device, doorbell=doorbell)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        async with Driver(link) as driver:
            await driver.request(b"x", 1)
        link.close_driver_end()
        link.close_driver_end()

    assert link.gone


async def test_memory_goes_with_the_second_end() -> None:
    for first, second in ("driver", "device"), ("device", "driver"):
        before = descriptors()
        link = loopback(Upper(), doorbell=Direct)
        assert descriptors() == before + 1
        getattr(link, f"close_{first}_end")()
        assert descriptors() == before + 1

        getattr(link, f"close_{second}_end")()

        assert descriptors() == before


async def test_the_device_is_concurrent_if_served_in_another_thread() -> None:
    async def drive() -> None:
        async with Driver(link) as driver:
            assert link.concurrent
            await driver.request(b"x", 1)
            ring = link.ring(0)
            assert ring is not None
            assert ring.concurrent

    async with served(Upper(), doorbell=EventFd) as link:
        assert not link.concurrent
        await trio.to_thread.run_sync(trio.run, drive)


async def test_the_device_is_not_concurrent_in_the_same_thread() -> None:
    async with served(Upper(), doorbell=EventFd) as link, Driver(link) as driver:
        await driver.request(b"x", 1)
        ring = link.ring(0)
        assert ring is not None
        assert not link.concurrent
        assert not ring.concurrent


async def test_resets_race_with_the_server_in_another_thread() -> None:
    """A driver that gives up at any moment never makes the server fail."""
    device = Upper(4, 4)
    link = loopback(device, doorbell=EventFd)

    async def drive() -> None:
        driver = Driver(link)
        for patience in range(200):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(give_up, scope, patience % 20)
                    await driver.__aenter__()
                    await driver.request(b"x", 1)
                    scope.cancel()
        async with driver:
            assert await driver.request(b"x", 1) == b"X"

    async def give_up(scope: trio.CancelScope, patience: int) -> None:
        await turns(patience)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        await trio.to_thread.run_sync(trio.run, drive)
        link.close()
