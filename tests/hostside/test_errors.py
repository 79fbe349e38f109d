"""What goes wrong in a handler, and what the peer does wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import Direct
from paravirt.hostside import Device, Request, RequestError, serve
from paravirt.transport import RingBroken, loopback

from .failing import KINDS, InBatches, InLine, Suspends, Typed, replies
from .serving import Echo, Hand, Outcome, by_hand, served, settled, until

if TYPE_CHECKING:
    from trio.testing import MockClock

    from paravirt.doorbells import DoorbellMaker
    from paravirt.transport import Loopback


# For the guest.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_error_becomes_the_status_of_its_type(
    doorbell: DoorbellMaker, kind: type[Typed]
) -> None:
    device = kind()
    async with served(device, doorbell) as it:
        assert await it.driver.request(b"refuse", 8) == b"\5"
        assert await it.driver.request(b"on", 8) == b"\0on"
        assert not it.link.needs_reset

    assert [str(error) for error in device.failed] == ["not today"]


async def test_a_type_without_a_status_needs_a_reset(doorbell: DoorbellMaker) -> None:
    """2.1.2: the request goes back empty, which means nothing any more."""

    class Bare(Device):
        device_id = 42

        async def handle(self, request: Request) -> None:
            data = request.read()
            request.write(data)
            if data == b"refuse":
                raise RequestError(1)

    async with served(Bare(), doorbell) as it:
        it.driver.submit(b"refuse", 8)
        await until(lambda: it.link.needs_reset)
        await it.driver.reset()
        assert not it.link.needs_reset
        assert await it.driver.request(b"on", 8) == b"on"


async def test_a_request_error_out_of_a_nursery_is_one(autojump_clock: MockClock) -> None:
    class InNursery(Typed):
        async def handle(self, request: Request) -> None:
            async with trio.open_nursery(), trio.open_nursery():
                self.act(request.read())

    device = InNursery()
    async with served(device) as it:
        assert await it.driver.request(b"refuse", 8) == b"\5"

    assert [type(error) for error in device.failed] == [RequestError]


async def test_a_request_error_after_the_reply_is_too_late(autojump_clock: MockClock) -> None:
    class TooLate(Typed):
        def handle(self, request: Request) -> None:
            request.reply(b"done")
            raise RequestError(5)

    device = TooLate()
    async with served(device) as it:
        assert await it.driver.request(b"", 8) == b"done"
        assert await it.driver.request(b"", 8) == b"done"

    assert device.failed == []


async def test_a_batch_fails_as_far_as_it_was_not_answered(autojump_clock: MockClock) -> None:
    device = InBatches()
    async with served(device) as it:
        await settled()
        requests = [(data, 8) for data in (b"a", b"refuse", b"b")]

        assert await it.driver.request_many(requests) == [b"\0a", b"\5", b"\5"]


def test_a_request_error_has_a_text() -> None:
    assert str(RequestError(3)) == "status 3"
    assert str(RequestError(3, "why")) == "why"
    assert RequestError(3, "why").status == 3


# Bugs.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bug_escapes_as_it_is_once_the_batch_is_settled(
    autojump_clock: MockClock, kind: type[Typed]
) -> None:
    server = Outcome()
    async with by_hand(kind(), outcome=server) as hand:
        rooms = [hand.offer(data, 8) for data in (b"a", b"bug", b"b", b"c")]
        hand.show()
        await server.ended.wait()

        after = b"\xff\0\0\0" if issubclass(kind, InBatches) else None
        assert replies(hand, rooms) == [
            b"\0a\0\0",
            b"\xff\0\0\0",
            after or b"\0b\0\0",
            after or b"\0c\0\0",
        ]
        assert hand.back() == 4
    assert type(server.error) is ZeroDivisionError


async def test_a_bug_in_a_type_without_a_status_needs_a_reset(autojump_clock: MockClock) -> None:
    class Bare(Echo):
        def handle(self, request: Request) -> None:
            raise ZeroDivisionError(request.id)

    server = Outcome()
    async with by_hand(Bare(), outcome=server) as hand:
        hand.offer(b"a", 8)
        hand.show()
        await server.ended.wait()

        assert hand.link.needs_reset


async def test_a_bug_does_not_cancel_a_sibling(autojump_clock: MockClock) -> None:
    server = Outcome()
    device = Suspends()
    async with by_hand(device, outcome=server) as hand:
        rooms = [hand.offer(b"wait x", 8), hand.offer(b"wait y", 8, queue=1)]
        hand.show()
        hand.show(1)
        await settled()
        rooms.append(hand.offer(b"bug", 8))
        hand.show()
        await settled()
        assert not server.ended.is_set()
        hand.offer(b"new", 8)
        hand.show()
        await settled()
        device.gate.set()
        await server.ended.wait()

        assert replies(hand, rooms) == [b"\0x\0\0", b"\0y\0\0", b"\xff\0\0\0"]
        assert (hand.back(), hand.back(1)) == (2, 1)  # nothing new was taken
    assert type(server.error) is ZeroDivisionError


async def test_a_sibling_that_never_ends_can_be_cancelled_and_the_bug_shows(
    autojump_clock: MockClock,
) -> None:
    device = Suspends()
    link = loopback(device, doorbell=Direct)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, device, link)
                hand = Hand(link)
                await hand.begin()
                await hand.go()
                hand.offer(b"wait for ever", 8)
                hand.offer(b"bug", 8)
                hand.show()
    link.close()


async def test_a_bug_after_a_reset_ends_all(autojump_clock: MockClock) -> None:
    server = Outcome()
    device = InLine()
    link = loopback(device, doorbell=Direct)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, device, link)
        await begin(link)
        await link.set_status(0)
        await settled()
        hand = await begin(link)
        hand.offer(b"bug", 8)
        hand.show()
        with trio.fail_after(1):
            await server.ended.wait()
        link.close()

    assert type(server.error) is ZeroDivisionError


async def begin(link: Loopback) -> Hand:
    hand = Hand(link)
    await hand.begin()
    await hand.go()
    await settled()
    return hand


async def test_a_bug_ends_workers_that_are_idle(autojump_clock: MockClock) -> None:
    server = Outcome()
    device = Suspends()
    async with by_hand(device, outcome=server) as hand:
        for _ in range(8):
            hand.offer(b"wait ", 8)
        hand.show()
        await settled()
        device.gate.set()
        await settled()
        assert hand.back() == 8
        hand.offer(b"bug", 8)
        hand.show()
        with trio.fail_after(1):
            await server.ended.wait()

    assert type(server.error) is ZeroDivisionError


async def test_a_second_bug_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = Outcome()
    async with by_hand(InLine(), outcome=server) as hand:
        for data in (b"bug", b"second bug"):
            hand.offer(data, 8)
        hand.show()
        await server.ended.wait()

    assert type(server.error) is ZeroDivisionError
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        LookupError
    ]


async def test_a_bug_in_fail_is_a_bug(autojump_clock: MockClock) -> None:
    class FailsToFail(InLine):
        def fail(self, request: Request, error: BaseException) -> bool:
            raise LookupError(request.id) from error

    server = Outcome()
    async with by_hand(FailsToFail(), outcome=server) as hand:
        hand.offer(b"refuse", 8)
        hand.show()
        await server.ended.wait()

        assert hand.link.needs_reset
        assert hand.back() == 1
    assert type(server.error) is LookupError


async def test_a_second_reply_is_a_bug(autojump_clock: MockClock) -> None:
    class Twice(Typed):
        def handle(self, request: Request) -> None:
            request.reply(b"1")
            request.reply(b"2")

    server = Outcome()
    async with by_hand(Twice(), outcome=server) as hand:
        room = hand.offer(b"", 4)
        hand.show()
        await server.ended.wait()

        assert hand.memory.read(room, 4) == b"1\0\0\0"
        assert hand.back() == 1
    assert type(server.error) is RuntimeError


async def test_what_is_no_awaitable_is_a_bug(autojump_clock: MockClock) -> None:
    class Returns(Typed):
        def handle(self, request: Request) -> None:
            return request.readable  # type: ignore[return-value]

    server = Outcome()
    async with by_hand(Returns(), outcome=server) as hand:
        hand.offer(b"x", 4)
        hand.show()
        await server.ended.wait()

    assert type(server.error) is TypeError


@pytest.mark.parametrize("error", [RingBroken(), MemoryError()])
async def test_another_peers_fault_is_a_bug_like_any_other(
    autojump_clock: MockClock, error: Exception
) -> None:
    """A device that is the driver of another one must not pass its errors off as the guest's."""

    class Forwards(Typed):
        def handle(self, request: Request) -> None:
            del request
            raise error

    server = Outcome()
    async with by_hand(Forwards(), outcome=server) as hand:
        room = hand.offer(b"x", 4)
        hand.show()
        await server.ended.wait()

        assert hand.memory.read(room, 1) == b"\xff"
    assert server.error is error


class Runs(Typed):
    """A bug in `run`, itself or in its background."""

    def __init__(self, *, behind: bool) -> None:
        super().__init__()
        self.behind = behind
        self.gate = trio.Event()

    async def handle(self, request: Request) -> None:
        await self.gate.wait()
        request.reply(b"\0")

    async def run(self, nursery: trio.Nursery) -> None:
        await trio.sleep(1)
        if self.behind:
            nursery.start_soon(self.work)
            await trio.sleep_forever()
        raise ZeroDivisionError

    async def work(self) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("behind", [False, True])
async def test_a_bug_in_run_escapes_as_it_is_after_the_requests(
    autojump_clock: MockClock, behind: bool
) -> None:
    server = Outcome()
    device = Runs(behind=behind)
    async with by_hand(device, outcome=server) as hand:
        hand.offer(b"", 4)
        hand.show()
        await trio.sleep(2)
        assert not server.ended.is_set()
        device.gate.set()
        await server.ended.wait()

        assert hand.back() == 1
    assert type(server.error) is ZeroDivisionError


async def test_a_bug_while_queues_still_start_ends_all(autojump_clock: MockClock) -> None:
    """The driver may send before the server has heard of every queue."""

    class Wide(Typed):
        queue_sizes = (4,) * 20

        def handle(self, request: Request) -> None:
            raise ZeroDivisionError(request.queue)

    device = Wide()
    link = loopback(device, doorbell=Direct)
    server = Outcome()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, device, link)
        hand = Hand(link)
        await hand.begin()
        hand.offer(b"x", 4)
        hand.show()
        await hand.go()
        with trio.fail_after(1):
            await server.ended.wait()
        link.close()

    assert type(server.error) is ZeroDivisionError
