"""Ctrl-C and cancellation."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import Direct
from paravirt.transport import loopback

from .failing import KINDS, Suspends, Typed, replies
from .serving import Echo, Hand, Outcome, by_hand, settled

if TYPE_CHECKING:
    from trio.testing import MockClock

    from paravirt.hostside import Request


@pytest.mark.parametrize("kind", KINDS)
async def test_an_interrupt_settles_the_batch_and_escapes_as_it_is(
    autojump_clock: MockClock, kind: type[Typed]
) -> None:
    server = Outcome()
    async with by_hand(kind(), outcome=server) as hand:
        rooms = [hand.offer(data, 8) for data in (b"a", b"interrupt", b"b")]
        hand.show()
        await server.ended.wait()

        assert replies(hand, rooms) == [b"\0a\0\0", b"\xff\0\0\0", b"\xff\0\0\0"]
        assert hand.back() == 3
    assert type(server.error) is KeyboardInterrupt


async def test_an_interrupt_waits_for_nobody(autojump_clock: MockClock) -> None:
    server = Outcome()
    async with by_hand(Suspends(), outcome=server) as hand:
        hand.offer(b"wait for ever", 8)
        hand.offer(b"interrupt", 8)
        hand.show()
        with trio.fail_after(1):
            await server.ended.wait()

    assert type(server.error) is KeyboardInterrupt


@pytest.mark.parametrize("how", ["def", "async", "batch"])
async def test_ctrl_c_reaches_a_handler(how: str) -> None:
    """The loop is protected, a handler is not: one that runs for ever can be stopped."""

    def interrupt(_: object, request: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError(request)

    async def interrupt_later(device: object, request: object) -> None:
        await trio.lowlevel.checkpoint()
        interrupt(device, request)

    name = "handle_batch" if how == "batch" else "handle"
    body = interrupt_later if how == "async" else interrupt
    device = type("Made", (Typed,), {name: body})()
    server = Outcome()
    async with by_hand(device, outcome=server) as hand:
        hand.offer(b"", 4)
        hand.show()
        await server.ended.wait()

    assert type(server.error) is KeyboardInterrupt


async def test_the_servers_loop_is_protected_from_ctrl_c() -> None:
    protected: list[bool] = []

    class Notes(Direct):
        def ring(self) -> None:
            protected.append(trio.lowlevel.currently_ki_protected())
            super().ring()

    async with by_hand(Echo(), call_doorbell=Notes) as hand:
        hand.offer(b"", 4)
        hand.show()
        await settled()

    assert protected == [True]


# Cancellation is none of it.


async def test_a_cancellation_is_never_an_answer(autojump_clock: MockClock) -> None:
    """Requests that a cancelled server has are not answered, nor is `fail` asked."""
    device = Suspends()
    link = loopback(device, doorbell=Direct)
    hand = Hand(link)
    with trio.move_on_after(5) as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(Outcome().serve, device, link)
            await hand.begin()
            await hand.go()
            hand.offer(b"wait for ever", 8)
            hand.show()

    assert scope.cancelled_caught
    assert hand.back() == 0
    assert device.failed == []
    link.close()


class Unwinds(Typed):
    """Raises while it is cancelled, alone or in a nursery of its own."""

    def __init__(self, *, nested: bool) -> None:
        super().__init__()
        self.nested = nested

    async def handle(self, request: Request) -> None:
        request.read()
        if self.nested:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.wait)
                await trio.sleep_forever()
        await self.wait()

    async def wait(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError


async def test_a_bug_while_it_is_cancelled_by_a_reset_escapes(autojump_clock: MockClock) -> None:
    server = Outcome()
    async with by_hand(Unwinds(nested=False), outcome=server) as hand:
        hand.offer(b"", 4)
        hand.show()
        await settled()
        await hand.link.set_status(0)
        await server.ended.wait()

    assert type(server.error) is ZeroDivisionError


async def test_a_bug_beside_a_cancellation_escapes_without_it(autojump_clock: MockClock) -> None:
    server = Outcome()
    async with by_hand(Unwinds(nested=True), outcome=server) as hand:
        hand.offer(b"", 4)
        hand.show()
        await settled()
        await hand.link.set_status(0)
        await server.ended.wait()

    assert pytest.RaisesGroup(ZeroDivisionError).matches(server.error)
