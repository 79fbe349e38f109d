"""What becomes of a doorbell that is changed, whatever comes in between."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from paravirt.doorbells import Direct, EventFd, Polling
from paravirt.transport import SwappableKick, SwapRefused, loopback
from tests.devices import Upper, cancelled_at

from .swapping import Swaps, under_way

settled = trio.testing.wait_all_tasks_blocked


async def test_driver_that_is_told_at_once_moves_at_once(autojump_clock: object) -> None:
    old, new = Direct(), EventFd()
    kick = SwappableKick(old)

    await kick.swap(lambda: new, lambda: None)

    assert kick.bell is new
    assert (kick.name, kick.fileno()) == ("eventfd", new.fileno())
    assert old.statistics().closed
    kick.close()


async def test_ring_is_looked_at_once_after_each_change(autojump_clock: object) -> None:
    """A kick that the old doorbell still held is not lost: the new one is rung instead."""
    swaps = Swaps()
    swaps.kick.ring()
    async with trio.open_nursery() as nursery:
        await nursery.start(swaps.swap)
        swaps.driver.move()
    await swaps.kick.wait()

    with pytest.raises(trio.TooSlowError), trio.fail_after(1):
        await swaps.kick.wait()
    swaps.kick.close()


@pytest.mark.parametrize("which", [0, 1], ids=["old", "new"])
async def test_both_doorbells_are_heard_until_the_driver_has_moved(
    which: int, autojump_clock: object
) -> None:
    async with under_way() as (swaps, nursery):
        await swaps.kick.wait()  # the ring that tells the waiter of the second
        woken = trio.Event()

        async def wait() -> None:
            await swaps.kick.wait()
            woken.set()

        nursery.start_soon(wait)
        await settled()
        assert not woken.is_set()
        swaps.bells[which].ring()
        with trio.fail_after(1):
            await woken.wait()
        assert len(swaps.open) == 2
        nursery.cancel_scope.cancel()


async def test_who_waits_already_hears_the_new_one_too(autojump_clock: object) -> None:
    swaps = Swaps()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swaps.kick.wait)
        await settled()
        await nursery.start(swaps.swap)
        # The first wait is over, so that the next one is at both.
        await settled()
        assert not swaps.kick.statistics().waiting
        nursery.cancel_scope.cancel()
    swaps.kick.close()


async def test_driver_is_called_after_it_was_told(autojump_clock: object) -> None:
    """An idle driver has nothing to kick for: the call wakes it, and it looks."""
    async with under_way() as (swaps, _):
        assert swaps.calls == 1
        assert swaps.driver.told is swaps.bells[1]
        swaps.driver.move()

    assert swaps.driver.admitted == [swaps.bells[1]]


async def test_cancelled_before_the_driver_moved_the_old_one_stays(autojump_clock: object) -> None:
    async with under_way() as (swaps, nursery):
        nursery.cancel_scope.cancel()
    assert swaps.kick.bell is swaps.bells[0]
    assert swaps.driver.told is swaps.bells[0]


async def test_cancelled_after_the_driver_moved_the_new_one_stays(autojump_clock: object) -> None:
    """It moved, and nobody had looked yet."""
    swaps = Swaps()
    async with trio.open_nursery() as nursery:
        await nursery.start(swaps.swap)
        swaps.driver.move()
        nursery.cancel_scope.cancel()

    assert swaps.kick.bell is swaps.bells[1]
    assert swaps.open == [swaps.bells[1]]
    swaps.kick.close()


@pytest.mark.parametrize("step", range(6))
async def test_cancelled_anywhere_one_of_the_two_is_left(step: int, autojump_clock: object) -> None:
    swaps = Swaps()
    with cancelled_at(step):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swaps.swap)
            await trio.sleep(step / 10_000)
            swaps.driver.move()
    swaps.driver.move()
    with trio.move_on_after(1):
        await swaps.kick.wait()
        await swaps.kick.wait()

    assert swaps.open == [swaps.kick.bell]
    assert swaps.driver.admitted == [swaps.kick.bell]
    swaps.kick.close()


async def test_new_one_is_heard_after_a_cancellation_until_the_driver_is_back(
    autojump_clock: object,
) -> None:
    """The driver had moved half-way: it read the new one, and has not rung it."""
    swaps = Swaps()
    async with trio.open_nursery() as nursery:
        await nursery.start(swaps.swap)
        swaps.driver.uses = swaps.bells[1]
        swaps.driver.moved = lambda: False  # type: ignore[method-assign]
        nursery.cancel_scope.cancel()
    del swaps.driver.moved
    await swaps.kick.wait()
    swaps.driver.kick()
    await swaps.kick.wait()
    assert swaps.open == swaps.bells

    swaps.driver.move()
    with trio.move_on_after(1):
        await swaps.kick.wait()
        await swaps.kick.wait()
    assert swaps.open == [swaps.bells[0]]
    swaps.kick.close()


async def test_next_change_waits_for_the_end_of_a_cancelled_one(autojump_clock: object) -> None:
    swaps = Swaps()
    async with trio.open_nursery() as nursery:
        await nursery.start(swaps.swap)
        swaps.driver.uses = swaps.bells[1]
        swaps.driver.moved = lambda: False  # type: ignore[method-assign]
        nursery.cancel_scope.cancel()
    del swaps.driver.moved
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swaps.swap)
        await trio.sleep(1)
        assert len(swaps.bells) == 2
        swaps.driver.move()
        await trio.sleep(1)
        assert swaps.driver.told is swaps.bells[2]
        swaps.driver.move()

    assert swaps.open == [swaps.bells[2]]
    swaps.kick.close()


async def test_second_change_of_one_queue_is_refused(autojump_clock: object) -> None:
    async with under_way() as (swaps, _):
        with pytest.raises(trio.BusyResourceError):
            await swaps.swap()
        swaps.driver.move()

    assert len(swaps.bells) == 2


async def test_closed_kick_ends_a_change(autojump_clock: object) -> None:
    swaps = Swaps()

    async def swap() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await swaps.swap()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(swap)
        await trio.sleep(1)
        swaps.kick.close()
        with pytest.raises(trio.ClosedResourceError):
            await swaps.kick.wait()

    assert swaps.open == []


async def test_driver_that_refuses_keeps_the_old_one() -> None:
    swaps = Swaps()
    swaps.driver.refuses = True
    with pytest.raises(SwapRefused):
        await swaps.swap()

    assert swaps.open == [swaps.kick.bell] == [swaps.bells[0]]
    swaps.kick.ring()
    await swaps.kick.wait()
    swaps.kick.close()


async def test_maker_that_fails_changes_nothing() -> None:
    kick = SwappableKick(Direct())

    def fail() -> Direct:
        raise OSError("no more descriptors")

    with pytest.raises(OSError, match="no more"):
        await kick.swap(fail, lambda: None)
    assert kick.name == "direct"
    kick.close()


async def test_ring_that_is_on_its_way_keeps_the_old_one_open() -> None:
    """Another thread is inside `ring` when the doorbell is changed."""
    entered, leave = threading.Event(), threading.Event()

    class Slow(EventFd):
        def ring(self) -> None:
            if threading.current_thread() is not threading.main_thread():
                entered.set()
                leave.wait()
            super().ring()

    old = Slow()
    kick = SwappableKick(old)
    ringer = threading.Thread(target=kick.ring)
    ringer.start()
    entered.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kick.swap, EventFd, lambda: None)
        while kick.bell is old:
            await trio.lowlevel.checkpoint()
        assert not old.statistics().closed
        leave.set()
    ringer.join()

    assert old.statistics().closed
    assert kick.statistics().rings == 3  # the driver's, and ours to the old and to the new one
    kick.close()


async def test_counts_go_on_over_a_change() -> None:
    kick = SwappableKick(Direct())
    kick.ring()
    await kick.wait()
    await kick.swap(Polling, lambda: None)

    counted = kick.statistics()
    assert (counted.rings, counted.wakes) == (3, 1)
    assert not kick.notifies
    kick.close()


async def test_link_refuses_a_queue_that_it_does_not_have() -> None:
    link = loopback(Upper(4))
    with pytest.raises(ValueError, match="queue 1"):
        await link.swap(Polling, queue=1)
    link.close()


async def test_closed_link_has_nothing_to_change() -> None:
    link = loopback(Upper(4))
    link.close()
    with pytest.raises(trio.ClosedResourceError):
        await link.swap(Polling)
