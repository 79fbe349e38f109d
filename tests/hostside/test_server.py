"""`serve`: when it starts, how it ends, and what it owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import Direct
from paravirt.guestside import Driver
from paravirt.hostside import Request, serve
from paravirt.transport import Loopback, Status, loopback

from .serving import Echo, Outcome, Parked, served, settled, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from paravirt.doorbells import DoorbellMaker
    from paravirt.transport.link import Change


async def test_it_has_started_before_any_driver_comes(
    doorbell: DoorbellMaker, nursery: trio.Nursery
) -> None:
    device = Echo()
    link = loopback(device, doorbell=doorbell)
    await nursery.start(serve, device, link)

    assert await link.get_status() == 0
    link.close()


async def test_a_driver_that_came_first_is_served(doorbell: DoorbellMaker) -> None:
    device = Echo()
    link = loopback(device, doorbell=doorbell)
    async with trio.open_nursery() as nursery, Driver(link) as driver:
        nursery.start_soon(serve, device, link)
        assert await driver.request(b"early", 8) == b"early"
        link.close()


async def test_it_outlives_resets(doorbell: DoorbellMaker) -> None:
    async with served(Echo(), doorbell) as it:
        for _ in range(3):
            assert await it.driver.request(b"x", 8) == b"x"
            await it.driver.reset()
        assert await it.driver.request(b"x", 8) == b"x"


async def test_one_driver_after_another_is_served(doorbell: DoorbellMaker) -> None:
    async with served(Echo(), doorbell) as it:
        for size in (2, 16, 4):
            async with Driver(it.link, queue_size=size) as driver:
                assert await driver.request(b"x", 8) == b"x"
        await it.driver.reset()


async def test_it_returns_when_the_peer_goes(doorbell: DoorbellMaker) -> None:
    device = Echo()
    link = loopback(device, doorbell=doorbell)
    server = Outcome()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, device, link)
        link.close_driver_end()

    assert server.error is None
    assert device.server is None
    link.close()


async def test_it_returns_when_the_peer_goes_with_requests_out(doorbell: DoorbellMaker) -> None:
    device = Parked()
    link = loopback(device, doorbell=doorbell)
    server = Outcome()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, device, link)
        driver = Driver(link)
        await driver.__aenter__()
        driver.submit(b"out", 8)
        await until(lambda: device.entered != [])
        link.close_driver_end()

    assert server.error is None
    assert device.cancelled == [b"out"]
    link.close()


# On every exit.


async def leave_by_peer(link: Loopback, scope: trio.CancelScope) -> None:
    link.close_driver_end()


async def leave_by_cancel(link: Loopback, scope: trio.CancelScope) -> None:
    scope.cancel()


async def leave_by_own_end(link: Loopback, scope: trio.CancelScope) -> None:
    link.close_device_end()


@pytest.mark.parametrize("leave", [leave_by_peer, leave_by_cancel, leave_by_own_end])
async def test_its_end_of_the_link_is_closed_and_the_device_is_free(
    leave: Callable[[Loopback, trio.CancelScope], Awaitable[None]],
) -> None:
    device = Echo()
    link = loopback(device, doorbell=Direct)
    async with trio.open_nursery() as nursery:
        await nursery.start(Outcome().serve, device, link)
        await leave(link, nursery.cancel_scope)

    assert link.gone
    async with served(device) as it:
        assert await it.driver.request(b"again", 8) == b"again"
    link.close()


class Fails(Echo):
    def handle(self, request: Request) -> None:
        raise ZeroDivisionError(request.id)


async def test_a_bug_closes_its_end_too(doorbell: DoorbellMaker) -> None:
    device = Fails()
    link = loopback(device, doorbell=doorbell)
    server = Outcome()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, device, link)
        driver = Driver(link)
        await driver.__aenter__()
        driver.submit(b"", 8)
        await server.ended.wait()

    assert isinstance(server.error, ZeroDivisionError)
    assert link.gone
    link.close()


async def cancel_server(it_scope: trio.CancelScope, device: Parked) -> None:
    await until(lambda: device.entered != [])
    it_scope.cancel()


async def test_the_driver_is_told_that_the_other_end_went(doorbell: DoorbellMaker) -> None:
    device = Parked()
    link = loopback(device, doorbell=doorbell)
    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        outer.start_soon(meet_broken_link, link)
        await until(lambda: device.entered != [])
        nursery.cancel_scope.cancel()

    link.close()


async def meet_broken_link(link: Loopback) -> None:
    async with Driver(link) as driver:
        with pytest.raises(trio.BrokenResourceError):
            await driver.request(b"out", 8)
        with pytest.raises(trio.BrokenResourceError):
            await driver.request(b"later", 8)
        with pytest.raises(trio.BrokenResourceError):
            await driver.reset()


async def test_a_driver_that_comes_after_the_end_is_told() -> None:
    device = Echo()
    link = loopback(device, doorbell=Direct)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        nursery.cancel_scope.cancel()

    with pytest.raises(trio.BrokenResourceError):
        await Driver(link).__aenter__()
    link.close()


async def test_a_link_that_is_closed_is_served_no_more() -> None:
    device = Echo()
    link = loopback(device, doorbell=Direct)
    link.close()

    await serve(device, link)

    assert device.server is None


# One at a time.


async def test_a_device_is_served_once_at_a_time() -> None:
    device = Echo()
    async with served(device) as it:
        with pytest.raises(trio.BusyResourceError):
            await serve(device, it.link)
        assert await it.driver.request(b"on", 8) == b"on"


async def test_a_link_that_is_refused_is_closed() -> None:
    """It is the server's on every exit, or a driver would wait there for ever."""
    device = Echo()
    refused = loopback(device, doorbell=Direct)
    async with served(device) as it:
        with pytest.raises(trio.BusyResourceError):
            await serve(device, refused)
        with pytest.raises(trio.BrokenResourceError):
            await refused.get_status()
        assert await it.driver.request(b"on", 8) == b"on"
    refused.close()


async def test_a_concurrency_of_none_at_all_is_refused() -> None:
    class Stuck(Parked):
        concurrency = 0

    device = Stuck()
    link = loopback(device, doorbell=Direct)

    with pytest.raises(ValueError, match="concurrency of 0"):
        await serve(device, link)

    assert link.gone
    assert device.server is None
    link.close()


async def test_two_devices_are_served_side_by_side(doorbell: DoorbellMaker) -> None:
    async with served(Echo(), doorbell) as one, served(Parked(), doorbell) as other:
        other.driver.submit(b"parked", 8)
        for _ in range(20):
            assert await one.driver.request(b"x", 8) == b"x"


async def test_many_queues_are_served(doorbell: DoorbellMaker) -> None:
    class Wide(Echo):
        queue_sizes = (4,) * 40

    async with served(Wide(), doorbell) as it:
        for queue in range(40):
            assert await it.driver.request(b"%d" % queue, 8, queue) == b"%d" % queue


async def test_a_device_without_queues_is_served() -> None:
    class Bare(Echo):
        queue_sizes = ()

    async with served(Bare()) as it:
        await settled()
        assert await it.link.get_status() & Status.DRIVER_OK


async def test_an_error_of_the_link_comes_out_as_it_is() -> None:
    class Fails(Loopback):
        async def next_change(self) -> Change | None:
            raise OSError(5, "the socket broke")

    device = Echo()
    link = Fails(device, Direct, Direct, ~0, 1 << 20, None)

    with pytest.raises(OSError, match="socket"):
        await serve(device, link)

    assert link.gone
    link.close()
