"""The doorbell of a queue that is served is changed, and no request notices."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import trio
from hypothesis import given, strategies as st

from paravirt.doorbells import KINDS, Adaptive, Direct, Doorbell, EventFd, Polling
from paravirt.guestside import SyncDriver
from paravirt.guestside.load import LoadDriver
from paravirt.hostside import Device, Request, serve
from paravirt.transport import Faults, Loopback, SwapRefused, loopback

from .serving import Echo, Parked, served, settled

THREADED = (EventFd, Polling, Adaptive)
COUNT = 3000


class Counting(Device):
    """Echoes, and sees to it that each number comes once and in its turn."""

    device_id = 42
    queue_sizes = (64,)

    def __init__(self) -> None:
        self.next = 0

    def handle(self, request: Request) -> None:
        data = request.read()
        assert int.from_bytes(data, "little") == self.next
        self.next += 1
        request.reply(data)


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [number.to_bytes(8, "little") for number in range(start, start + count)]


@pytest.mark.parametrize(
    ("old", "new"), list(itertools.permutations(KINDS, 2)), ids=lambda kind: kind.name
)
async def test_any_kind_follows_any_other(old: type[Doorbell], new: type[Doorbell]) -> None:
    async with served(Echo(), old, call_doorbell=Direct) as it:
        assert await it.driver.request(b"before", 6) == b"before"
        await it.link.swap(new)
        assert it.link.kick(0).name == new.name
        assert await it.driver.request(b"after", 5) == b"after"
        await it.link.swap(old)
        assert await it.driver.request(b"again", 5) == b"again"


async def test_kick_to_the_old_one_that_nobody_took_is_not_lost() -> None:
    """The request is published and kicked, and the server has not run since."""
    async with served(Echo()) as it:
        await settled()
        it.driver.submit(b"late", 4)
        await it.link.swap(EventFd)
        assert [reply for _, reply in await it.driver.reap()] == [b"late"]


async def test_request_that_is_in_flight_is_answered_once() -> None:
    device = Parked()
    async with served(device) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.driver.request, b"x", 1)
        await settled()
        await it.link.swap(Direct)
        assert device.entered == [b"x"]
        device.let_go(b"x")

    assert device.left == [b"x"]


async def test_reset_in_between_leaves_the_new_one() -> None:
    async with served(Echo()) as it:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.link.swap, EventFd)
            nursery.start_soon(it.driver.reset)
        assert it.link.kick(0).name == "eventfd"
        assert await it.driver.request(b"x", 1) == b"x"


async def test_late_notification_rings_the_doorbell_of_now(autojump_clock: object) -> None:
    """2.7.10: a delay changes nothing but time, also over a change."""
    faults = Faults()
    async with served(Echo(), faults=faults) as it:
        faults.delay_next("kick")
        it.driver.submit(b"x", 1)
        await it.link.swap(Direct)
        await trio.sleep(1)
        assert [reply for _, reply in await it.driver.reap()] == [b"x"]
        assert it.link.kick(0).statistics().rings >= 3


async def test_direct_is_refused_to_a_driver_in_another_thread() -> None:
    device = Counting()
    link = loopback(device)
    ready, leave = trio.Event(), trio.Event()

    def drive() -> None:
        with SyncDriver(link):
            trio.from_thread.run_sync(ready.set)
            trio.from_thread.run(leave.wait)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        nursery.start_soon(trio.to_thread.run_sync, drive)
        await ready.wait()
        with pytest.raises(SwapRefused, match="stays in one thread"):
            await link.swap(Direct)
        leave.set()
        while link.kick(0).name != "eventfd":
            await trio.lowlevel.checkpoint()
        nursery.start_soon(close_when_idle, link)


async def close_when_idle(link: Loopback) -> None:
    await settled(0.01)
    link.close()


def ask(link: Loopback) -> None:
    """Have Python look at every reply."""
    with SyncDriver(link) as driver:
        asked = numbers(COUNT)
        assert driver.request_many([(data, 8) for data in asked]) == asked


def load(link: Loopback, *, blocking: bool) -> None:
    """Have C send them; it reads the doorbell anew before each kick."""
    with LoadDriver(link) as driver:
        done = driver.run_load(
            COUNT, data=bytes(8), reply_size=8, depth=4, blocking=blocking, stamps=range(COUNT)
        )
        assert (done.requests, done.bytes_out) == (COUNT, 8 * COUNT)


@pytest.mark.parametrize(
    "drive",
    [ask, partial(load, blocking=False), partial(load, blocking=True)],
    ids=["python", "looking", "sleeping"],
)
async def test_no_request_is_lost_or_repeated_under_load(drive: object) -> None:
    """The short soak: bounded by requests, changed as often as the driver moves over."""
    assert callable(drive)
    device = Counting()
    link = loopback(device)
    over = trio.Event()
    changes = 0

    async def run() -> None:
        await trio.to_thread.run_sync(drive, link)
        over.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        nursery.start_soon(run)
        for kind in itertools.cycle(THREADED):
            await link.swap(kind)
            changes += 1
            if over.is_set():
                break
        link.close()

    assert device.next == COUNT
    assert changes > 0


STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 12)), max_size=12)


@given(steps=STEPS, cancel=st.sets(st.integers(0, 11)))
def test_requests_survive_any_order_of_changes(
    steps: list[tuple[type[Doorbell], int]], cancel: set[int]
) -> None:
    async def play() -> None:
        sent: list[bytes] = []
        async with served(Counting(), call_doorbell=Direct) as it:
            for index, (kind, count) in enumerate(steps):
                more = numbers(count, len(sent))
                sent += more
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(it.driver.request_many, [(data, 8) for data in more])
                    with trio.CancelScope() as scope:
                        if index in cancel:
                            scope.cancel()
                        await it.link.swap(kind)
            assert it.driver.statistics()[0].requests == len(sent)

    trio.run(play)
