"""A server looks for a while before it sleeps, where that can pay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.doorbells import Direct, SpinWindow
from paravirt.hostside import Device, Request
from paravirt.hostside._loop import current_loop

from .serving import Echo, Hand, Parked, by_hand, served, settled

if TYPE_CHECKING:
    from trio.testing import MockClock


class Looks(Direct):
    """A kick doorbell with a window."""

    def __init__(self) -> None:
        super().__init__()
        self.window = SpinWindow(1000, fixed=True)


async def ask_once(hand: Hand, *, concurrent: bool = True) -> tuple[int, int]:
    """Send one request; return how often the server looked with success, and in vain."""
    ring = hand.link.ring(0)
    window = hand.link.kick(0).window
    assert ring is not None
    assert window is not None
    ring.concurrent = concurrent
    before = window.hits, window.misses
    hand.offer(b"x", 8)
    hand.show()
    await settled()
    assert hand.back() == 1
    return window.hits - before[0], window.misses - before[1]


async def test_a_server_that_has_nothing_else_to_do_looks_before_it_sleeps() -> None:
    async with by_hand(Echo(), doorbell=Looks, call_doorbell=Direct) as hand:
        assert await ask_once(hand) == (1, 1)


async def test_it_does_not_look_if_the_driver_is_in_the_same_thread() -> None:
    async with by_hand(Echo(), doorbell=Looks, call_doorbell=Direct) as hand:
        assert await ask_once(hand, concurrent=False) == (0, 0)


async def test_it_does_not_look_while_a_handler_of_the_loop_is_suspended() -> None:
    parked = Parked()
    async with by_hand(Echo(), doorbell=Looks, call_doorbell=Direct) as hand:
        async with served(parked) as other:
            other.driver.submit(b"parked", 8)
            await settled()
            assert await ask_once(hand) == (0, 0)
            parked.let_go(b"parked")
            await settled()
            assert await ask_once(hand) == (1, 1)
            other.driver.submit(b"again", 8)
            await settled()
            assert await ask_once(hand) == (0, 0)
        assert await ask_once(hand) == (1, 1)  # a handler that was cancelled counts no more


async def test_it_does_not_look_while_another_queue_has_work() -> None:

    async with by_hand(Echo(), doorbell=Looks, call_doorbell=Direct) as hand:
        current_loop().busy += 1
        assert await ask_once(hand) == (0, 0)
        current_loop().busy -= 1
        assert await ask_once(hand) == (1, 1)


async def test_a_device_that_holds_what_it_took_does_not_keep_others_from_looking() -> None:
    class Taker(Device):
        device_id = 42
        queue_sizes = (8,)
        taken_queues = (0,)

    taker = Taker()
    async with (
        by_hand(Echo(), doorbell=Looks, call_doorbell=Direct) as hand,
        served(taker) as other,
    ):
        other.driver.submit(b"a", 8)
        other.driver.submit(b"b", 8)
        await settled()
        await taker.queue(0).take()

        assert await ask_once(hand) == (1, 1)


class Shut(Direct):
    """A kick doorbell whose window is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.window = SpinWindow(0, maximum=1000)


class Prompt(Echo):
    """Has a driver that sends the next request while the last is handled, `left` times."""

    left = 0
    hand: Hand

    def __init__(self) -> None:
        self.seen: list[int] = []
        """The window's width at each request."""

    def handle(self, request: Request) -> None:
        window = self.hand.link.kick(0).window
        assert window is not None
        self.seen.append(window.ns)
        if self.left:
            self.left -= 1
            self.hand.offer(b"x", 8)
            self.hand.rings[0].publish()
        request.reply()


def concurrent(hand: Hand) -> None:
    """Have the server believe that its driver runs in another thread."""
    ring = hand.link.ring(0)
    assert ring is not None
    ring.concurrent = True


async def test_work_that_is_there_before_it_could_sleep_opens_a_window_that_is_shut() -> None:
    """Nobody sleeps as long as the driver is so fast, so no later try would come."""
    device = Prompt()
    async with by_hand(device, doorbell=Shut, call_doorbell=Direct) as hand:
        device.hand, device.left = hand, 2
        concurrent(hand)
        hand.offer(b"x", 8)
        hand.show()
        await settled()

    assert device.seen == [0, 1000, 1000]


async def test_work_that_it_was_woken_for_opens_no_window() -> None:
    device = Prompt()
    async with by_hand(device, doorbell=Shut, call_doorbell=Direct) as hand:
        device.hand = hand
        concurrent(hand)
        for _ in range(3):
            hand.offer(b"x", 8)
            hand.show()
            await settled()

    assert device.seen == [0, 0, 0]


async def test_a_window_that_is_shut_opens_again() -> None:
    """It would never learn that the driver became fast."""
    async with by_hand(Echo(), doorbell=Shut, call_doorbell=Direct) as hand:
        window = hand.link.kick(0).window
        assert window is not None
        for _ in range(1000):
            await ask_once(hand)
            if window.ns:
                break

        assert window.ns


async def test_a_driver_in_the_same_loop_is_let_run_before_the_server_sleeps(
    autojump_clock: MockClock,
) -> None:
    """So that its next request needs no kick."""
    async with served(Echo()) as it:
        await settled()
        kicks = it.rings
        for _ in range(100):
            await it.driver.request(b"x", 8)

        assert it.rings - kicks < 90  # about half, as trio draws lots
