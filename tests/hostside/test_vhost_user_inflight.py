"""Inflight descriptors: what one backend had in hand, the next takes up."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
import trio

from paravirt.transport import DriverRing, NegotiationError, PeerError
from paravirt.transport.inflight import table_size
from paravirt.transport.vhost_user import Request, payloads as p
from tests.hostside.frontend import DATA, attached, open_files
from tests.hostside.kept import AGREED, Kept, ask_for, collect, entered, hand_over, tracked
from tests.hostside.serving import Echo, Parked, settled

GONE = (trio.BrokenResourceError, trio.ClosedResourceError, PeerError)


async def test_file_is_made_for_the_queues_that_are_named() -> None:
    async with attached(Echo()) as frontend:
        await frontend.agree(int(AGREED))
        kept = await ask_for(frontend, p.Inflight(0, 0, 1, 1024))

    assert kept.about == p.Inflight(table_size(1024), 0, 1, 1024)
    assert os.fstat(kept.fd).st_size >= table_size(1024)
    os.close(kept.fd)


async def test_file_has_room_for_the_queue_that_a_guest_takes_instead() -> None:
    """QEMU asks for what its device's option says, and on virtio-mmio Linux takes 1024."""
    async with attached(Echo()) as frontend:
        await frontend.agree(int(AGREED))
        kept = await ask_for(frontend, p.Inflight(0, 0, 1, 2))

    assert kept.about == p.Inflight(table_size(1024), 0, 1, 2)
    os.close(kept.fd)


async def test_next_backend_takes_up_what_the_last_one_had() -> None:
    """In the order in which it was taken, although another request came back in between."""
    first, second = Parked(), Parked()
    async with trio.open_nursery() as nursery, tracked(first) as (frontend, kept):
        for number, data in enumerate((b"one", b"two", b"six")):
            frontend.offer(data, at=DATA + 64 * number)
        await entered(first, 3)
        first.let_go(b"two")
        await collect(frontend, 1)

        await hand_over(frontend, kept, second, nursery)
        await entered(second, 2)
        second.let_go(b"one")
        second.let_go(b"six")

        assert sorted(await collect(frontend, 2)) == [0, 4]
        assert second.entered == [b"one", b"six"]
        assert frontend.memory.read(DATA + 3, 3) == b"one"
        frontend.close()


async def test_new_requests_come_after_those_taken_up() -> None:
    first, second = Parked(), Parked()
    async with trio.open_nursery() as nursery, tracked(first) as (frontend, kept):
        frontend.offer(b"old")
        await entered(first, 1)
        frontend.channel.close()
        await settled()
        frontend.offer(b"new", at=DATA + 64)
        await hand_over(frontend, kept, second, nursery)
        await entered(second, 2)

        assert second.entered == [b"old", b"new"]
        frontend.close()


async def test_stop_at_once_waits_for_what_was_taken_up() -> None:
    """GET_VRING_BASE says nothing of it, so it has to be done."""
    first = Parked()
    async with trio.open_nursery() as nursery, tracked(first) as (frontend, kept):
        frontend.offer(b"one")
        frontend.offer(b"two", at=DATA + 64)
        await entered(first, 2)
        await hand_over(frontend, kept, Echo(), nursery)

        assert await frontend.base() == 2
        assert len(await collect(frontend, 2)) == 2
        frontend.close()


async def test_queue_goes_on_with_its_table_after_a_stop() -> None:
    async with tracked(Echo()) as (frontend, _):
        for _ in range(3):
            assert await frontend.echo(b"hello") == b"hello"
            base = await frontend.base()
            await frontend.ask(Request.SET_VRING_BASE, p.VringState(0, base))
            await frontend.bell(Request.SET_VRING_KICK, frontend.queues[0].kick)


async def test_reset_leaves_nothing_to_be_taken_up() -> None:
    first, second = Parked(), Parked()
    async with trio.open_nursery() as nursery, tracked(first) as (frontend, kept):
        frontend.offer(b"lost")
        await entered(first, 1)
        await frontend.ask(Request.RESET_DEVICE)
        frontend.queues[0].ring = DriverRing(frontend.memory, frontend.queues[0].geometry)
        await hand_over(frontend, kept, second, nursery)
        frontend.offer(b"next")
        await entered(second, 1)

        assert second.entered == [b"next"]
        frontend.close()


@pytest.mark.parametrize(
    "wanted", [p.Inflight(0, 0, 2, 16), p.Inflight(0, 0, 0, 16), p.Inflight(0, 0, 1, 0)], ids=str
)
async def test_file_that_cannot_be_made_ends_the_connection(
    wanted: p.Inflight, caplog: pytest.LogCaptureFixture
) -> None:
    async with attached(Echo()) as frontend:
        await frontend.agree(int(AGREED))
        with pytest.raises(GONE):
            await ask_for(frontend, wanted)

    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("size", [0, 4095, 1 << 40])
async def test_file_of_another_size_is_refused(size: int, caplog: pytest.LogCaptureFixture) -> None:
    before = open_files()
    async with attached(Echo()) as frontend:
        await frontend.agree(int(AGREED))
        fd = os.memfd_create("inflight")
        os.ftruncate(fd, 4095)
        with pytest.raises(NegotiationError):
            await Kept(fd, p.Inflight(size, 0, 16, 16)).give(frontend)
        os.close(fd)
        await frontend.bring_up()

        assert await frontend.echo(b"hello") == b"hello"
    assert open_files() == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_file_is_not_exchanged_while_queues_run() -> None:
    async with tracked(Echo()) as (frontend, kept):
        with pytest.raises(NegotiationError):
            await kept.give(frontend)

        assert await frontend.echo(b"hello") == b"hello"


async def test_queue_with_a_table_that_cannot_be_true_does_not_start() -> None:
    async with attached(Echo()) as frontend:
        await frontend.agree(int(AGREED))
        kept = await ask_for(frontend)
        os.pwrite(kept.fd, b"\2", 8)
        await kept.give(frontend)
        with pytest.raises(NegotiationError):
            await frontend.bring_up()
        os.pwrite(kept.fd, b"\0", 8)
        await frontend.bell(Request.SET_VRING_KICK, frontend.queues[0].kick)
        os.close(kept.fd)

        assert await frontend.echo(b"hello") == b"hello"


async def test_queue_that_has_no_table_does_not_start() -> None:
    async with attached(Echo()) as frontend:
        await frontend.agree(int(AGREED))
        fd = os.memfd_create("inflight")
        os.ftruncate(fd, table_size(8))
        await Kept(fd, p.Inflight(table_size(8), 0, 1, 8)).give(frontend)
        os.close(fd)
        with pytest.raises(NegotiationError):
            await frontend.bring_up()


async def test_file_that_shrinks_ends_the_connection_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Echo()
    async with attached(device) as frontend:
        await frontend.agree(int(AGREED))
        fd = os.memfd_create("inflight")
        os.ftruncate(fd, 4096)
        await Kept(fd, p.Inflight(4096, 0, 1, 16)).give(frontend)
        await frontend.bring_up()
        await frontend.echo(b"hello")
        os.ftruncate(fd, 0)
        os.close(fd)
        frontend.offer(b"hello")
        with suppress(*GONE):
            assert await frontend.channel.receive() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    async with attached(device) as frontend:
        await frontend.bring_up()
        assert await frontend.echo(b"next") == b"next"
