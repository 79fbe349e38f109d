"""Notifications that come late, twice, out of order or never."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.guestside import DeviceNeedsReset
from paravirt.transport import Faults

from .serving import Echo, Parked, served, settled

if TYPE_CHECKING:
    from trio.testing import MockClock

    from paravirt.transport._faults import Way

WAYS: list[Way] = ["kick", "call"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", ["delay_next", "duplicate_next", "reorder_next"])
async def test_only_the_time_changes(autojump_clock: MockClock, way: Way, fault: str) -> None:
    faults = Faults(delay=3)
    device = Echo()
    async with served(device, faults=faults) as it:
        for data in (b"a", b"b", b"c"):
            await settled()  # a server that is awake needs no kick
            getattr(faults, fault)(way)
            began = trio.current_time()
            assert await it.driver.request(data, 8) == data
            took = trio.current_time() - began

            assert took == pytest.approx(0 if fault == "duplicate_next" else 3)
        assert device.statistics().queues[0].completed == 3


@pytest.mark.parametrize("way", WAYS)
async def test_a_dropped_one_makes_the_request_wait_until_the_device_is_reset(
    autojump_clock: MockClock, way: Way
) -> None:
    """It is outside of a doorbell's contract: under EVENT_IDX nobody rings again."""
    faults = Faults()
    async with served(Echo(), faults=faults) as it:
        await settled()
        faults.drop_next(way)
        with trio.move_on_after(100) as scope:
            await it.driver.request(b"lost", 8)
        assert scope.cancelled_caught
        await it.driver.reset()

        assert await it.driver.request(b"on", 8) == b"on"


async def test_a_device_that_breaks_down_is_reset(autojump_clock: MockClock) -> None:
    faults = Faults()
    async with served(Echo(), faults=faults) as it:
        faults.break_next("kick")
        with pytest.raises(DeviceNeedsReset):
            await it.driver.request_many([(b"a", 8)] * 100)
        await it.driver.reset()

        assert await it.driver.request(b"on", 8) == b"on"


async def test_a_call_that_is_dropped_does_not_stop_the_device(autojump_clock: MockClock) -> None:
    faults = Faults()
    device = Parked()
    async with served(device, faults=faults) as it:
        it.driver.submit(b"a", 8)
        await settled()
        faults.drop_next("call")
        device.let_go(b"a")
        await settled()

        assert device.statistics().queues[0].completed == 1
