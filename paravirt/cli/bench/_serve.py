"""`paravirt bench serve`: a device server under a load from a C loop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
import trio

from paravirt.doorbells import Adaptive, EventFd
from paravirt.guestside.load import LoadDriver
from paravirt.hostside import Device, Request, serve
from paravirt.transport import loopback

from ._bare import bare_loop
from ._idle import idle_devices
from ._report import OURS, Case, bench_options, run_cases, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from paravirt.doorbells import DoorbellMaker
    from paravirt.transport.bench import LoadResult

DATA = bytes(16)
COUNT = 200_000  # at depth 64: 0.1-0.2 s
COUNT_SPAWNED = 20_000
COUNT_ALONE = 20_000
COUNT_BLOCKING = 2_000  # a sleep and a wake each: 0.1 ms


class Plain(Device):
    """The least device: a plain function that does nothing."""

    device_id = 42
    queue_sizes = (256,)

    def handle(self, request: Request) -> None:
        """Let the request be completed with nothing."""


class Coroutine(Device):
    """The same as a coroutine."""

    device_id = 42
    queue_sizes = (256,)

    async def handle(self, request: Request) -> None:
        """Let the request be completed with nothing."""


class Spawned(Device):
    """The same with a task for each request, as a server without workers would do it."""

    device_id = 42
    queue_sizes = (256,)
    taken_queues = (0,)

    async def run(self, nursery: trio.Nursery) -> None:
        """Take each request and start a task for it."""

        async def answer(request: Request) -> None:
            request.reply()

        while True:
            nursery.start_soon(answer, await self.queue(0).take())


async def load(
    device: Device,
    drive: Callable[[LoadDriver], LoadResult],
    doorbell: DoorbellMaker,
) -> LoadResult:
    """Serve a device on one CPU and put a load on it from another."""
    link = loopback(device, doorbell=doorbell)
    cpus = sorted(os.sched_getaffinity(0))

    def client() -> LoadResult:
        os.sched_setaffinity(0, {cpus[-1]})
        try:
            with LoadDriver(link) as driver:
                return drive(driver)
        finally:
            os.sched_setaffinity(0, cpus)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        os.sched_setaffinity(0, {cpus[0]})
        try:
            return await trio.to_thread.run_sync(client)
        finally:
            os.sched_setaffinity(0, cpus)
            link.close()


def busy_case(name: str, peer: str, device: type[Device], count: int) -> Case:
    """Describe a device at depth 64."""

    def drive(driver: LoadDriver) -> LoadResult:
        return driver.run_load(count, data=DATA)

    def measure() -> Mapping[str, float]:
        result = trio.run(load, device(), drive, Adaptive)
        return {
            "requests_per_s": result.rate,
            "kicks_per_request": result.kicks / result.requests,
        }

    return Case(name, peer, 64, len(DATA), measure)


def lone_case(name: str, doorbell: DoorbellMaker, count: int, *, blocking: bool) -> Case:
    """Describe one request at a time."""

    def drive(driver: LoadDriver) -> LoadResult:
        return driver.run_load(count, data=DATA, depth=1, latencies=True, blocking=blocking)

    def measure() -> Mapping[str, float]:
        result = trio.run(load, Plain(), drive, doorbell)
        return {
            "p50_us": result.percentile_us(50),
            "p99_us": result.percentile_us(99),
            "requests_per_s": result.rate,
            "kicks_per_request": result.kicks / result.requests,
        }

    return Case(name, OURS, 1, len(DATA), measure)


def bare_case(name: str, *, coroutine: bool) -> Case:
    """Describe the loop with no server in it."""
    return Case(
        name,
        "bare loop",
        64,
        len(DATA),
        lambda: {"requests_per_s": bare_loop(COUNT, coroutine=coroutine)},
    )


@click.command(
    name="serve",
    epilog="""
    \b
    Examples:
      paravirt bench serve
      paravirt bench serve --runs 20 --json > serve.json
    """,
)
@bench_options
def serving(runs: int, as_json: bool) -> None:
    """Measure the device server under a load from C, with a handler that does nothing.

    Beside it a bare loop that calls the same handler, and a server that starts a task for each
    request. At depth 1 the adaptive doorbell, which looks before it sleeps, and the eventfd, where
    both sides sleep each time. Then what devices cost that nobody uses.
    """
    cases = [
        bare_case("plain function", coroutine=False),
        busy_case("plain function", OURS, Plain, COUNT),
        bare_case("coroutine", coroutine=True),
        busy_case("coroutine", OURS, Coroutine, COUNT),
        busy_case("coroutine", "task per request", Spawned, COUNT_SPAWNED),
        lone_case("adaptive", Adaptive, COUNT_ALONE, blocking=False),
        lone_case("blocking", EventFd, COUNT_BLOCKING, blocking=True),
        Case("idle devices", OURS, 0, 0, lambda: trio.run(idle_devices)),
    ]
    show(run_cases("serve", cases, runs), as_json=as_json)
