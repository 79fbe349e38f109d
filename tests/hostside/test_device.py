"""What a device class may be, and what it does besides handling requests."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import trio
from msgspec.structs import replace

from paravirt.doorbells import Direct
from paravirt.hostside import Device, Request, serve
from paravirt.transport import U16, U32, ConfigSpace, NegotiationError, loopback

from .serving import Echo, Hand, Outcome, by_hand, served, settled, until

if TYPE_CHECKING:
    from trio.testing import MockClock

    from paravirt.doorbells import DoorbellMaker

Body = Callable[..., Any]


def shout(request: Request) -> None:
    request.reply(request.read().upper())


def plain(self: Device, request: Request) -> None:
    shout(request)


async def coroutine(self: Device, request: Request) -> None:
    await trio.lowlevel.checkpoint()
    shout(request)


def returns_a_coroutine(self: Device, request: Request) -> Awaitable[None]:
    return coroutine(self, request)


def returns_one_at_times(self: Device, request: Request) -> Awaitable[None] | None:
    if request.readable % 2:
        return coroutine(self, request)
    shout(request)
    return None


class Later:
    """An awaitable that is no coroutine."""

    def __init__(self, request: Request) -> None:
        self.request = request

    def __await__(self) -> Any:
        yield from coroutine(Echo(), self.request).__await__()


def returns_an_awaitable(self: Device, request: Request) -> Awaitable[None]:
    return Later(request)


def batch(self: Device, requests: Sequence[Request]) -> None:
    for request in requests:
        shout(request)


async def batch_coroutine(self: Device, requests: Sequence[Request]) -> None:
    await trio.lowlevel.checkpoint()
    for request in reversed(requests):
        shout(request)


HANDLERS: dict[str, tuple[str, Body]] = {
    "def": ("handle", plain),
    "async": ("handle", coroutine),
    "def-coroutine": ("handle", returns_a_coroutine),
    "def-some-coroutines": ("handle", returns_one_at_times),
    "def-awaitable": ("handle", returns_an_awaitable),
    "batch": ("handle_batch", batch),
    "async-batch": ("handle_batch", batch_coroutine),
    "no function": ("handle", functools.partial(shout)),
}


def make_class(name: str, body: Body, **attributes: object) -> type[Device]:
    basics = {"device_id": 42, "queue_sizes": (16,)}
    return type("Made", (Device,), {**basics, name: body, **attributes})


@pytest.mark.parametrize("kind", HANDLERS)
async def test_each_kind_of_handler_answers(doorbell: DoorbellMaker, kind: str) -> None:
    device = make_class(*HANDLERS[kind])()
    async with served(device, doorbell) as it:
        replies = await it.driver.request_many([(b"x%d" % i, 8) for i in range(40)])

    assert replies == [b"X%d" % i for i in range(40)]


def test_two_handlers_are_refused() -> None:
    with pytest.raises(TypeError, match="both"):
        make_class("handle", plain, handle_batch=batch)


def test_a_second_handler_is_refused_in_a_subclass_too() -> None:
    base = make_class("handle", plain)

    with pytest.raises(TypeError, match="both"):
        type("Sub", (base,), {"handle_batch": batch})


def test_no_handler_is_refused() -> None:
    with pytest.raises(TypeError, match="neither"):
        type("Lazy", (Device,), {"device_id": 42})


def test_a_base_class_needs_no_handler() -> None:
    class Base(Device, abstract=True):
        device_id = 42

    class Made(Base):
        handle = plain

    assert not Base.handles_batches
    assert not Made.handles_batches


def test_a_device_that_takes_needs_no_handler() -> None:
    class Taker(Device):
        taken_queues = (0,)

    assert Taker().taken_queues == (0,)


def test_the_kind_is_found_out_once() -> None:
    assert make_class("handle_batch", batch).handles_batches
    assert not make_class("handle", plain).handles_batches


def test_a_device_that_is_not_served_says_so() -> None:
    with pytest.raises(RuntimeError, match="not being served"):
        Echo().queue(0)
    with pytest.raises(RuntimeError, match="not being served"):
        Echo().statistics()


async def test_a_queue_that_was_not_started_is_said_to_be_so(nursery: trio.Nursery) -> None:
    device = Echo()
    link = loopback(device, doorbell=Direct)
    await nursery.start(serve, device, link)

    with pytest.raises(RuntimeError, match="not started queue 0"):
        device.queue(0)

    link.close()


async def test_falling_off_the_end_completes_with_what_was_written(
    doorbell: DoorbellMaker,
) -> None:
    class Writes(Echo):
        def handle(self, request: Request) -> None:
            request.write(request.read())

    async with served(Writes(), doorbell) as it:
        assert await it.driver.request(b"abc", 8) == b"abc"
        assert await it.driver.request(b"", 8) == b""


# The configuration space.


class Space(ConfigSpace, frozen=True):
    size: U32 = 7
    mode: U16 = 1


class Tunable(Echo):
    """Has a mode that the driver may write, and a size that it may not."""

    def __init__(self) -> None:
        self.config = Space()
        self.writes: list[tuple[int, bytes]] = []

    def config_written(self, offset: int, data: bytes) -> None:
        if offset != 4:
            raise NegotiationError("read-only")
        self.writes.append((offset, data))
        self.config = replace(self._space(), mode=int.from_bytes(data, "little"))

    def _space(self) -> Space:
        assert isinstance(self.config, Space)
        return self.config


async def test_a_new_configuration_is_told_and_read(doorbell: DoorbellMaker) -> None:
    """2.5: the generation differs, and one notification is sent."""
    device = Tunable()
    async with served(device, doorbell) as it:
        assert await it.driver.read_config(Space) == Space()
        generation = (await it.link.read_config(0, 0))[1]
        it.nursery.start_soon(replace_later, device)
        await it.driver.config_changed()
        assert await it.driver.read_config(Space) == Space(size=8)
        assert (await it.link.read_config(0, 0))[1] == generation + 1


async def replace_later(device: Tunable) -> None:
    await trio.lowlevel.checkpoint()
    device.config = Space(size=8)


async def test_a_configuration_set_before_a_driver_comes_is_the_one_it_reads() -> None:
    device = Tunable()
    device.config = Space(size=9)
    async with served(device) as it:
        assert await it.driver.read_config(Space) == Space(size=9)


async def test_a_configuration_of_another_length_is_refused_without_effect() -> None:
    class Longer(Space, frozen=True):
        more: U32 = 0

    device = Tunable()
    async with served(device) as it:
        with pytest.raises(ValueError, match="bytes"):
            device.config = Longer()
        assert device.config == Space()
        assert await it.driver.read_config(Space) == Space()


async def test_a_value_out_of_range_is_refused_without_effect() -> None:
    device = Tunable()
    async with served(device):
        with pytest.raises(ValueError, match="mode"):
            device.config = Space(mode=1 << 16)
        assert device.config == Space()


async def test_a_driver_writes_what_the_device_takes(doorbell: DoorbellMaker) -> None:
    device = Tunable()
    async with served(device, doorbell) as it:
        await it.driver.write_config(4, b"\5\0")

        assert device.writes == [(4, b"\5\0")]
        assert await it.driver.read_config(Space) == Space(mode=5)


async def test_a_write_that_the_device_refuses_raises_at_the_driver(
    doorbell: DoorbellMaker,
) -> None:
    async with served(Tunable(), doorbell) as it:
        with pytest.raises(NegotiationError, match="read-only"):
            await it.driver.write_config(0, b"\5")
        assert await it.driver.request(b"on", 8) == b"on"


async def test_a_write_is_refused_by_default() -> None:
    class Fixed(Echo):
        def __init__(self) -> None:
            self.config = Space()

    async with served(Fixed()) as it:
        with pytest.raises(NegotiationError, match="no writable"):
            await it.driver.write_config(0, b"\5")


async def test_a_bug_in_config_written_is_told_and_escapes() -> None:
    class Buggy(Tunable):
        def config_written(self, offset: int, data: bytes) -> None:
            raise ZeroDivisionError(offset, data)

    server = Outcome()
    device = Buggy()
    async with by_hand(device, outcome=server) as hand:
        with pytest.raises(NegotiationError, match="failed"):
            await hand.link.write_config(0, b"\5")
        await server.ended.wait()

    assert isinstance(server.error, ZeroDivisionError)


# What it does of its own accord.


class Runs(Echo):
    """Notes when `run` begins and ends, with a task in the background."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def run(self, nursery: trio.Nursery) -> None:
        self.notes.append(f"queue of {self.queue(0).ring.geometry.size}")
        nursery.start_soon(self.work)
        try:
            await trio.sleep_forever()
        finally:
            self.notes.append("run ends")

    async def work(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.notes.append("work ends")


async def test_run_begins_at_driver_ok(autojump_clock: MockClock) -> None:
    device = Runs()
    link = loopback(device, doorbell=Direct)
    async with trio.open_nursery() as nursery:
        await nursery.start(Outcome().serve, device, link)
        hand = Hand(link)
        await hand.begin()
        await settled()
        assert device.notes == []
        await hand.go()
        await settled()
        assert device.notes == ["queue of 16"]
        link.close()


async def test_run_and_all_in_its_nursery_end_at_a_reset(autojump_clock: MockClock) -> None:
    device = Runs()
    async with served(device) as it:
        await settled()
        await it.driver.reset()

        assert sorted(device.notes[1:3]) == ["run ends", "work ends"]
        await settled()
        assert device.notes[3:] == ["queue of 16"]


async def test_run_ends_when_the_peer_goes(doorbell: DoorbellMaker) -> None:
    device = Runs()
    async with served(device, doorbell):
        await until(lambda: device.notes != [])

    assert sorted(device.notes[1:]) == ["run ends", "work ends"]


async def test_a_run_that_returns_changes_nothing(doorbell: DoorbellMaker) -> None:
    class Brief(Echo):
        async def run(self, nursery: trio.Nursery) -> None:
            del nursery

    async with served(Brief(), doorbell) as it:
        assert await it.driver.request(b"on", 8) == b"on"


async def test_the_drivers_features_are_known_while_it_is_there(autojump_clock: MockClock) -> None:
    device = Echo()
    async with by_hand(device) as hand:
        assert device.driver_features == hand.link.device_features
        await hand.link.set_status(0)
        await settled()

        assert device.driver_features == 0
