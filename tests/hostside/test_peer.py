"""What the peer does wrong."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import Direct
from paravirt.hostside import Device, Request, RequestError
from paravirt.transport import Memory, MemoryGone, Region, loopback

from .serving import Echo, Hand, Outcome, Parked, by_hand, served, settled, until

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from trio.testing import MockClock

    from paravirt.transport import Loopback


async def test_a_bad_chain_never_reaches_the_device(autojump_clock: MockClock) -> None:
    """2.7.5: it goes back with length 0 and is counted by its cause."""
    device = Parked()
    async with by_hand(device) as hand:
        hand.offer_bad()
        hand.offer(b"good", 8)
        hand.offer_bad()
        hand.show()
        await settled()

        assert device.entered == [b"good"]
        assert hand.back() == 2
        assert device.statistics().queues[0].rejected == {"address": 2}


async def test_bad_chains_are_told_of_and_signalled_now_and_then(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every turn that met some rings the error descriptor; the log has a line a second."""
    signals: list[int] = []
    async with by_hand(Parked()) as hand:
        monkeypatch.setattr(hand.link, "signal_error", signals.append)
        lines: list[int] = []
        for pause in 0.0, 0.0, 2.0, 0.0:
            await trio.sleep(pause)
            hand.offer_bad()
            hand.show()
            await settled()
            lines.append(len(caplog.records))

    assert lines == [1, 1, 2, 2]
    assert signals == [0] * 4
    assert "queue 0: bad chain: an address lies outside" in caplog.text


async def test_a_broken_queue_does_not_hold_up_the_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Two(Parked):
        queue_sizes = (4, 4)

    device = Two()
    async with by_hand(device) as hand:
        hand.offer(b"taken", 8)
        hand.show()
        await settled()
        hand.break_queue()
        await settled()
        hand.offer(b"other", 8, queue=1)
        hand.show(1)
        device.let_go(b"other")
        device.let_go(b"taken")
        await settled()

        broken, works = device.statistics().queues
        assert (broken.broken, works.broken) == ("avail_index", None)
        assert hand.back(1) == 1
        assert device.left == [b"taken", b"other"] or device.left == [b"other", b"taken"]
        assert not hand.link.gone
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_broken_queue_works_after_a_reset(autojump_clock: MockClock) -> None:
    device = Echo()
    async with served(device) as it:
        await settled()
        ring = it.link.ring(0)
        assert ring is not None
        it.link.memory.write(ring.geometry.driver + 2, b"\xff\x7f")
        it.link.kick(0).ring()
        await settled()
        assert device.statistics().queues[0].broken == "avail_index"
        await it.driver.reset()

        assert await it.driver.request(b"on", 8) == b"on"


async def test_a_taken_queue_that_breaks_gives_nothing_until_it_stops(
    autojump_clock: MockClock,
) -> None:
    class Taker(Device):
        device_id = 42
        queue_sizes = (4,)
        taken_queues = (0,)

    device = Taker()
    async with by_hand(device) as hand:
        hand.break_queue()
        with trio.move_on_after(1) as scope:
            await device.queue(0).take()
        assert scope.cancelled_caught
        assert device.statistics().queues[0].broken == "avail_index"


def share_unsealed(link: Loopback, size: int) -> int:
    """Put memory behind a link that its driver can take away; returns its file."""
    fd = os.memfd_create("paravirt-test")
    os.ftruncate(fd, size)
    link.memory.close()
    link.memory = Memory([Region.foreign(os.dup(fd), addr=1 << 20, size=size)])
    link.pool = (1 << 20, size)
    return fd


class Reads(Parked):
    """Reads again once it is let go."""

    errors: tuple[str, ...] = ()

    async def handle(self, request: Request) -> None:
        data = request.read(1)
        self.entered.append(data)
        await self.gates.setdefault(data, trio.Event()).wait()
        try:
            request.read()
        except MemoryGone as error:
            self.errors += (str(error),)
            raise


async def lose_memory(after: Callable[[Hand, Reads], None], device: Reads) -> Outcome:
    """Serve a request over memory that is then truncated, and another device beside it."""
    link = loopback(device, doorbell=Direct)
    fd = share_unsealed(link, 1 << 20)
    server = Outcome()
    async with served(Echo()) as other, trio.open_nursery() as nursery:
        await nursery.start(server.serve, device, link)
        hand = Hand(link)
        await hand.begin()
        await hand.go()
        hand.offer(b"a" * 100, 8)
        hand.show()
        await until(lambda: device.entered != [])
        await settled()
        os.ftruncate(fd, 0)
        after(hand, device)
        await server.ended.wait()

        assert link.gone
        assert await other.driver.request(b"on", 8) == b"on"
    os.close(fd)
    link.close()
    return server


async def test_memory_that_is_gone_closes_the_link_and_everything_else_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "paravirt.server"):
        server = await lose_memory(lambda hand, _: hand.link.kick(0).ring(), Reads())

    assert server.error is None
    assert "truncated" in caplog.text


async def test_memory_that_is_gone_under_a_handler_closes_the_link() -> None:
    device = Reads()
    server = await lose_memory(lambda _, reads: reads.let_go(b"a"), device)

    assert server.error is None
    assert len(device.errors) == 1


async def test_an_error_that_nobody_can_be_told_any_more_is_none(
    autojump_clock: MockClock,
) -> None:
    """The device has no status to write, and the link is closed already."""

    class Refuses(Parked):
        async def handle(self, request: Request) -> None:
            try:
                await super().handle(request)
            finally:
                raise RequestError(1)

    device = Refuses()
    server = Outcome()
    async with by_hand(device, outcome=server) as hand:
        hand.offer(b"x", 8)
        hand.show()
        await settled()
        hand.link.close_device_end()
        await server.ended.wait()

    assert device.cancelled == [b"x"]
    assert server.error is None
