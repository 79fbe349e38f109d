"""Handlers of every kind at once: each request is completed exactly once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import hypothesis
import hypothesis.strategies as st
import trio
import trio.testing

from paravirt.doorbells import Direct
from paravirt.guestside import Driver
from paravirt.hostside import Device, Request, RequestError, serve
from paravirt.transport import Faults, loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from paravirt.hostside import QueueStatistics

ACTS = ("reply", "fall off", "pause", "sleep", "refuse", "refuse later", "hand over", "cut")


class Actor(Device):
    """Does what the first byte of a request says; the rest names it, and comes back."""

    device_id = 42
    queue_sizes = (8, 32)

    def __init__(self, concurrency: int | None, rng: random.Random) -> None:
        self.concurrency = concurrency
        self.rng = rng
        self.send, self.receive = trio.open_memory_channel[tuple[Request, trio.Event]](100)

    def handle(self, request: Request) -> Awaitable[None] | None:
        act = ACTS[request.read(1)[0]]
        match act:
            case "reply" | "cut":
                request.reply(request.read())
            case "fall off":
                request.write(request.read())
            case "refuse":
                raise RequestError(1)
            case _:
                return self.act_later(act, request)
        return None

    async def act_later(self, act: str, request: Request) -> None:
        match act:
            case "pause":
                for _ in range(self.rng.randrange(4)):
                    await trio.lowlevel.checkpoint()
            case "sleep":
                await trio.sleep(self.rng.random())
            case "refuse later":
                await trio.sleep(self.rng.random())
                raise RequestError(1)
            case _:
                replied = trio.Event()
                await self.send.send((request, replied))
                await replied.wait()
                return
        request.write(request.read())

    def fail(self, request: Request, error: BaseException) -> bool:
        del error
        request.write(b"!" + request.read())
        return True

    async def run(self, nursery: trio.Nursery) -> None:
        del nursery
        async for request, replied in self.receive.clone():
            if self.rng.random() < 0.5:
                await trio.sleep(self.rng.random())
            request.reply(request.read())
            replied.set()


class BatchActor(Actor):
    """The same, a batch at a time."""

    handle = Device.handle

    async def handle_batch(self, requests: Sequence[Request]) -> None:
        for request in self.rng.sample(requests, len(requests)):
            try:
                result = Actor.handle(self, request)
                if result is not None:
                    await result
            except RequestError as error:
                self.fail(request, error)


def expected(number: int, act: int) -> bytes:
    name = b"%06d" % number
    failed = b"!" + name
    return {"cut": name[:3], "refuse": failed, "refuse later": failed}.get(ACTS[act], name)


def asked(number: int, act: int) -> tuple[bytes, int]:
    return bytes([act]) + b"%06d" % number, 3 if ACTS[act] == "cut" else 16


async def drive(device: Actor, acts: list[int], faults: Faults | None) -> list[QueueStatistics]:
    """Send a request for each act from several tasks, over both queues; returns the counts."""
    link = loopback(device, doorbell=Direct, faults=faults)

    async def ask_all(driver: Driver, numbers: Sequence[int], queue: int) -> None:
        requests = [asked(number, acts[number]) for number in numbers]
        replies = await driver.request_many(requests, queue)
        assert replies == [expected(number, acts[number]) for number in numbers]

    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, device, link)
            async with Driver(link) as driver:
                async with trio.open_nursery() as askers:
                    for part in range(4):
                        numbers = range(part, len(acts), 4)
                        askers.start_soon(ask_all, driver, numbers, part % 2)
                await trio.testing.wait_all_tasks_blocked()
                counts = device.statistics().queues
            link.close()
    return counts


@hypothesis.given(
    acts=st.lists(st.integers(0, len(ACTS) - 1), max_size=120),
    concurrency=st.sampled_from([None, 1, 2, 5]),
    batches=st.booleans(),
    faulty=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_each_request_is_completed_once(
    acts: list[int], concurrency: int | None, batches: bool, faulty: bool, seed: int
) -> None:
    kind = BatchActor if batches else Actor
    device = kind(concurrency, random.Random(seed))
    faults = Faults(seed=seed) if faulty else None
    clock = trio.testing.MockClock(autojump_threshold=0)
    counts = trio.run(drive, device, acts, faults, clock=clock)

    assert sum(queue.requests for queue in counts) == len(acts)
    assert sum(queue.completed for queue in counts) == len(acts)
    assert sum(queue.in_flight + queue.stale for queue in counts) == 0
    assert all(queue.rejected == {} and queue.broken is None for queue in counts)
