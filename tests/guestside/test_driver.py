"""Negotiation on entry, reset on exit, and what a driver is between the two."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.doorbells import Direct, Doorbell, EventFd
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.transport import Feature, Loopback, NegotiationError, Status, loopback
from tests.devices import ByHand, Upper, cancelled_at, served

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

UNKNOWN = 1 << 5  # a bit of the device type that no driver here understands
READY = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


class Recording(Loopback):
    """Notes what the driver does."""

    def __init__(self, device: Upper) -> None:
        super().__init__(device, Direct, Direct, ~0, 1 << 20, None)
        self.steps: list[str] = []

    async def get_status(self) -> Status:
        self.steps.append("status?")
        return await super().get_status()

    async def set_status(self, status: int) -> None:
        self.steps.append(f"status={int(status)}")
        await super().set_status(status)

    async def set_features(self, features: int) -> None:
        self.steps.append("features")
        await super().set_features(features)

    async def set_queue(self, queue: int, size: int, desc: int, driver: int, device: int) -> None:
        self.steps.append(f"queue {queue}")
        await super().set_queue(queue, size, desc, driver, device)


class Fussy(Recording):
    """Refuses whatever the driver accepts, since VERSION_1 gets lost on the way."""

    lost = int(Feature.VERSION_1)

    async def set_features(self, features: int) -> None:
        await super().set_features(features & ~self.lost)


async def test_entering_takes_the_steps_in_their_order() -> None:
    """3.1.1, 2.4.2 (the status is read until it is 0), 2.2.2 (FEATURES_OK is read again)."""
    link = Recording(Upper(8, 8))

    async with Driver(link):
        assert link.steps == [
            "status=0",
            "status?",
            f"status={Status.ACKNOWLEDGE}",
            f"status={Status.ACKNOWLEDGE | Status.DRIVER}",
            "features",
            f"status={READY & ~Status.DRIVER_OK}",
            "status?",
            "queue 0",
            "queue 1",
            "status?",
            f"status={int(READY)}",
        ]


async def test_entering_leaves_a_device_that_is_ready(doorbell: type[Doorbell]) -> None:
    async with served(Upper(), doorbell=doorbell) as link, Driver(link) as driver:
        assert await link.get_status() == READY
        assert driver.features == link.device_features
        assert driver.queues == 1


async def test_only_features_that_are_understood_are_accepted() -> None:
    """2.2.1."""
    device = Upper()
    device.features = UNKNOWN

    async with served(device) as link, Driver(link) as driver:
        assert link.device_features & UNKNOWN
        assert not driver.features & UNKNOWN
        assert type(driver.features) is int


async def test_a_feature_that_is_wanted_is_accepted() -> None:
    class Knowing(Driver):
        wanted_features = UNKNOWN

    device = Upper()
    device.features = UNKNOWN

    async with served(device) as link, Knowing(link) as driver:
        assert driver.features & UNKNOWN


async def test_a_device_of_another_type_is_left_alone() -> None:
    class Disk(Driver):
        device_id = 2

    async with served(Upper()) as link:
        with pytest.raises(NegotiationError, match="type 42, not 2"):
            async with Disk(link):
                pytest.fail("it is no disk")

        assert await link.get_status() == 0


async def test_refused_features_end_in_failed() -> None:
    """2.2.2, 3.1.1 (the driver sets FAILED)."""
    link = Fussy(Upper())

    with pytest.raises(NegotiationError, match="version 1") as caught:
        async with Driver(link):
            pytest.fail("the features were refused")

    assert caught.value.clause == "2.2.2"
    assert Status.FAILED in await link.get_status()
    assert not any(step.startswith("queue") for step in link.steps)


async def test_a_device_that_failed_can_be_entered_again() -> None:
    link = Fussy(Upper())
    with pytest.raises(NegotiationError):
        await Driver(link).__aenter__()
    link.lost = 0

    async with Driver(link):
        assert await link.get_status() == READY


async def test_leaving_resets(doorbell: type[Doorbell]) -> None:
    async with served(Upper(), doorbell=doorbell) as link:
        async with Driver(link) as driver:
            await driver.request(b"x", 1)

        assert await link.get_status() == 0
        assert link.ring(0) is None


async def test_leaving_resets_when_cancelled(doorbell: type[Doorbell]) -> None:
    async with served(ByHand(), doorbell=doorbell) as link:
        with trio.CancelScope() as scope:
            async with Driver(link) as driver:
                scope.cancel()
                await driver.request(b"x", 1)

        assert scope.cancelled_caught
        assert await link.get_status() == 0


async def test_leaving_resets_after_an_error() -> None:
    async with served(Upper()) as link:
        with pytest.raises(ZeroDivisionError):
            async with Driver(link):
                raise ZeroDivisionError

        assert await link.get_status() == 0


async def test_leaving_is_fine_when_the_device_went_first(doorbell: type[Doorbell]) -> None:
    async with served(Upper(), doorbell=doorbell) as link, Driver(link):
        link.close_device_end()


async def test_leaving_is_fine_when_the_link_is_closed(doorbell: type[Doorbell]) -> None:
    async with served(Upper(), doorbell=doorbell) as link, Driver(link):
        link.close()


async def test_leaving_is_fine_when_the_server_is_cancelled(doorbell: type[Doorbell]) -> None:
    device = Upper()
    link = loopback(device, doorbell=doorbell)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        async with Driver(link):
            nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()
    link.close()


async def test_one_driver_after_another() -> None:
    async with served(Upper()) as link:
        for _ in range(3):
            async with Driver(link) as driver:
                assert await driver.request(b"x", 1) == b"X"


async def test_a_driver_can_be_entered_again() -> None:
    async with served(Upper()) as link:
        driver = Driver(link)
        for _ in range(2):
            async with driver:
                assert await driver.request(b"x", 1) == b"X"


async def test_nothing_works_before_and_after() -> None:
    async with served(Upper()) as link:
        driver = Driver(link)
        for _ in range(2):
            uses: list[Callable[[], Awaitable[object]]] = [
                partial(driver.request, b"x"),
                partial(driver.request_many, [(b"x", 1)]),
                driver.reap,
                driver.reset,
            ]
            for use in uses:
                with pytest.raises(trio.ClosedResourceError, match="not open"):
                    await use()
            with pytest.raises(trio.ClosedResourceError, match="not open"):
                driver.submit(b"x")
            async with driver:
                pass


async def test_who_waits_hears_that_the_driver_was_closed(doorbell: type[Doorbell]) -> None:
    async def hear() -> None:
        with pytest.raises(trio.ClosedResourceError, match="the driver was closed"):
            await driver.request(b"x", 1)

    device = ByHand()
    async with (
        served(device, doorbell=doorbell) as link,
        trio.open_nursery() as nursery,
        Driver(link) as driver,
    ):
        for _ in range(3):
            nursery.start_soon(hear)
        await device.several(3)


async def test_there_is_no_background_task() -> None:
    device = ByHand()
    async with served(device, doorbell=EventFd) as link, trio.open_nursery() as nursery:
        before = trio.lowlevel.current_statistics().tasks_living
        async with Driver(link, queue_size=1) as driver:
            for _ in range(5):
                nursery.start_soon(driver.request, b"")
            await trio.testing.wait_all_tasks_blocked()
            served_by = 1 + 1  # `Device.run` and `_collect`, since DRIVER_OK
            assert trio.lowlevel.current_statistics().tasks_living == before + 5 + served_by
            for _ in range(5):
                (await device.next()).reply()
            while driver.statistics()[0].in_flight:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("size", [0, -1, 3, 12])
async def test_a_queue_size_that_virtio_forbids_is_refused(size: int) -> None:
    """2.7."""
    link = loopback(Upper(), doorbell=Direct)

    with pytest.raises(ValueError, match="power of two"):
        Driver(link, queue_size=size)

    link.close()


@pytest.mark.parametrize(("limit", "sizes"), [(4, [4, 4]), (8, [4, 8]), (None, [4, 16])])
async def test_queue_size_caps_the_queues(limit: int | None, sizes: list[int]) -> None:
    async with served(Upper(4, 16)) as link, Driver(link, queue_size=limit) as driver:
        assert [queue.size for queue in driver.statistics()] == sizes
        assert await driver.request(b"x", 1, queue=1) == b"X"


@pytest.mark.parametrize("queue", [-1, 1, 7])
async def test_a_queue_that_is_not_there_is_refused(queue: int) -> None:
    async with served(Upper()) as link, Driver(link) as driver:
        with pytest.raises(ValueError, match="the device has 1"):
            await driver.request(b"x", queue=queue)


@pytest.mark.parametrize("memory", [64, 4096, 8192])
async def test_too_little_memory_for_the_rings_is_told(memory: int) -> None:
    async with served(Upper(256, 256), memory_size=memory) as link:
        with pytest.raises(MemoryError, match="queue"):
            await Driver(link).__aenter__()


async def test_memory_just_enough_for_the_rings_does_without_tables() -> None:
    async with served(Upper(256), memory_size=1 << 14) as link, Driver(link) as driver:
        assert driver.features & Feature.RING_INDIRECT_DESC
        assert await driver.request_many([(b"x", 1)] * 100) == [b"X"] * 100


async def test_a_cancelled_entry_leaves_the_device_not_ready() -> None:
    async with served(Upper()) as link:
        for steps in range(50):
            driver = Driver(link)
            with cancelled_at(steps) as scope:
                await driver.__aenter__()

            assert scope.cancelled_caught is (Status.DRIVER_OK not in await link.get_status())
            if not scope.cancelled_caught:
                assert steps > 5
                return
        pytest.fail("it was never entered")
