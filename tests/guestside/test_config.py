"""The configuration space from the driver's side (2.5)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from paravirt.doorbells import Direct, Doorbell
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.transport import U8, ConfigSpace, Loopback, NegotiationError, loopback
from tests.devices import Level, Tank, cancelled_at, served, turns


class Restless(Loopback):
    """Changes the configuration after each of the first reads."""

    def __init__(self, changes: int) -> None:
        super().__init__(Tank(), Direct, Direct, ~0, 1 << 20, None)
        self.changes = changes
        self.reads = 0

    async def read_config(self, offset: int, size: int) -> tuple[bytes, int]:
        read = await super().read_config(offset, size)
        self.reads += 1
        if self.changes:
            self.changes -= 1
            self.set_config(Level(self.reads).to_bytes())
        return read


async def test_the_space_is_read_whole() -> None:
    async with served(Tank()) as link, Driver(link) as driver:
        assert await driver.read_config(Level) == Level(level=0, limit=100)


async def test_a_space_longer_than_known_is_fine() -> None:
    """2.5.1."""

    class Short(ConfigSpace, frozen=True):
        level: U8 = 7

    async with served(Tank()) as link, Driver(link) as driver:
        assert await driver.read_config(Short) == Short(level=0)


async def test_a_space_shorter_than_known_is_fine() -> None:
    """2.5.1."""

    class Long(Level, frozen=True):
        more: U8 = 7

    async with served(Tank()) as link, Driver(link) as driver:
        assert await driver.read_config(Long) == Long(level=0, limit=100, more=7)


@pytest.mark.parametrize("changes", [0, 1, 2, 5])
async def test_reading_goes_on_until_the_generation_stays(changes: int) -> None:
    """2.5.1."""
    link = Restless(changes)

    read = await Driver(link).read_config(Level)

    assert read.level == changes
    assert link.reads == changes + 2


async def test_a_change_is_noticed(doorbell: type[Doorbell]) -> None:
    device = Tank()
    async with (
        served(device, doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        await driver.read_config(Level)
        for _ in range(3):
            nursery.start_soon(driver.config_changed)
        await turns()

        device.config = Level(5)


async def test_a_change_since_the_last_read_is_not_waited_for() -> None:
    device = Tank()
    async with served(device) as link, Driver(link) as driver:
        await driver.read_config(Level)
        device.config = Level(5)

        await driver.config_changed()
        await driver.config_changed()

        assert (await driver.read_config(Level)).level == 5


async def test_a_notification_without_a_change_is_not_taken_for_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served(Tank()) as link, Driver(link) as driver:
        await driver.read_config(Level)
        with trio.move_on_after(1) as scope:
            link.changed.ring()
            await driver.config_changed()

        assert scope.cancelled_caught
        assert autojump_clock.current_time() >= 1


async def test_who_waits_takes_over_from_one_that_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    device = Tank()
    async with (
        served(device) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        await driver.read_config(Level)
        with trio.move_on_after(1):
            nursery.start_soon(driver.config_changed)
            await driver.config_changed()
        with trio.move_on_after(1):
            await driver.config_changed()

        device.config = Level(5)


async def test_a_write_reaches_the_device(doorbell: type[Doorbell]) -> None:
    device = Tank()
    async with served(device, doorbell=doorbell) as link, Driver(link) as driver:
        await driver.write_config(0, (7).to_bytes(4, "little"))

        assert device.config == Level(7)
        assert await driver.read_config(Level) == Level(7)


async def test_a_write_may_be_refused() -> None:
    async with served(Tank()) as link, Driver(link) as driver:
        with pytest.raises(NegotiationError, match="no level: 101 at 0"):
            await driver.write_config(0, (101).to_bytes(4, "little"))

        assert await driver.read_config(Level) == Level(0)


@pytest.mark.parametrize(("offset", "size"), [(8, 1), (5, 4), (-1, 1)])
async def test_a_write_outside_of_the_space_is_refused(offset: int, size: int) -> None:
    async with served(Tank()) as link, Driver(link) as driver:
        with pytest.raises(NegotiationError):
            await driver.write_config(offset, bytes(size))


async def test_writes_go_on_while_somebody_waits_for_changes(doorbell: type[Doorbell]) -> None:
    async with (
        served(Tank(), doorbell=doorbell) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        await driver.read_config(Level)
        nursery.start_soon(driver.config_changed)
        await turns()
        for level in range(10):
            nursery.start_soon(driver.write_config, 0, level.to_bytes(4, "little"))


async def test_a_write_that_a_reset_overtakes_is_refused() -> None:
    link = loopback(Tank(), doorbell=Direct)  # nobody serves, so nobody takes the write

    async def write() -> None:
        with pytest.raises(NegotiationError, match="reset"):
            await driver.write_config(0, bytes(4))

    async with Driver(link) as driver, trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await turns()
        await driver.reset()
    link.close()


async def test_a_write_ends_when_the_device_goes(doorbell: type[Doorbell]) -> None:
    device = Tank()
    link = loopback(device, doorbell=doorbell)

    async def write() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await link.write_config(0, bytes(4))

    async with Driver(link), trio.open_nursery() as nursery:  # nobody serves yet
        nursery.start_soon(write)
        await turns()
        link.close_device_end()
    link.close()


async def test_a_cancelled_write_leaves_the_link_usable() -> None:
    async with served(Tank()) as link, Driver(link) as driver:
        for steps in range(20):
            with cancelled_at(steps) as scope:
                await driver.write_config(0, steps.to_bytes(4, "little"))
            if not scope.cancelled_caught:
                assert steps > 1
                await driver.write_config(0, (50).to_bytes(4, "little"))
                assert (await driver.read_config(Level)).level == 50
                return
        pytest.fail("it never ended")


async def test_waiting_for_a_change_ends_when_the_device_goes(doorbell: type[Doorbell]) -> None:
    device = Tank()
    link = loopback(device, doorbell=doorbell)

    async def wait() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await driver.config_changed()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        async with Driver(link) as driver:
            await driver.read_config(Level)
            for _ in range(3):
                nursery.start_soon(wait)
            await turns()
            link.close_device_end()
    link.close()
