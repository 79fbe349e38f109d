"""One doorbell measured once: a guest for each figure, and what it is held against."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec
import trio

from paravirt.doorbells import Polling
from paravirt.doorbells.kvm import (
    MmioDatamatch,
    MmioExit,
    MmioIoeventfd,
    MmioWildcard,
    PioDatamatch,
    PioExit,
    PioIoeventfd,
    PioWildcard,
)
from paravirt.guestside.payload import Program, Task
from paravirt.hostside.machine import BareKick, bare_kicks

from .._errors import Interrupted
from ..bench._serve import DATA, Plain, load
from ._guest import run_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from paravirt.doorbells import Doorbell
    from paravirt.guestside.load import LoadDriver
    from paravirt.transport.bench import LoadResult

    from ._guest import Outcome

    class RunTask(Protocol):
        """Runs a task with the doorbell that is measured."""

        async def __call__(self, task: Task, *, stamped: bool = False) -> Outcome: ...


T = TypeVar("T")

SIZE: Final = 64
"""Bytes a request."""
DEPTH: Final = 64


class Counts(msgspec.Struct, frozen=True):
    """How much of each, in one run of one doorbell."""

    kicks: int = 2_000  # 8 to 70 ms; p99 rests on 20
    lone: int = 500  # echoes at depth 1, some 0.1 ms each
    busy: int = 10_000  # echoes at depth 64, bound by the Python that makes an answer: 50 ms
    lone_load: int = 5_000  # requests at depth 1: 25 ms
    load: int = 200_000  # requests at depth 64, and those of the loopback: 0.1 s


BARE: Final[Mapping[type[Doorbell], BareKick]] = {
    **dict.fromkeys((PioIoeventfd, PioWildcard, PioDatamatch), BareKick.PIO),
    **dict.fromkeys((MmioIoeventfd, MmioWildcard, MmioDatamatch), BareKick.MMIO),
    PioExit: BareKick.PIO_EXIT,
    MmioExit: BareKick.MMIO_EXIT,
}
"""Which bare loop has a doorbell's instruction."""


def measure_guest(kind: type[Doorbell], counts: Counts) -> dict[str, float]:
    """Measure one doorbell. Raises CommandError for a guest that fails, Interrupted at Ctrl-C."""
    return _run(partial(_figures, kind, counts))


def measure_loopback(counts: Counts) -> dict[str, float]:
    """Put the plain load on the device from this process, as `bench serve` does."""
    return {"requests_per_s_depth64": _run(partial(_loopback, counts.load)).rate}


def _run(measure: Callable[[], Awaitable[T]]) -> T:
    interrupted = False
    try:
        return trio.run(measure)
    except* KeyboardInterrupt:
        interrupted = True
    assert interrupted
    raise Interrupted


async def _loopback(count: int) -> LoadResult:
    def drive(driver: LoadDriver) -> LoadResult:
        return driver.run_load(count, data=DATA)

    return await load(Plain(), drive, Polling)


async def _figures(kind: type[Doorbell], counts: Counts) -> dict[str, float]:
    ends: list[Outcome] = []

    async def run(task: Task, *, stamped: bool = False) -> Outcome:
        ends.append(await run_task(kind, task, stamped=stamped))
        return ends[-1]

    figures = await _kicks(kind, counts, run)
    figures |= await _echoes(counts, run)
    figures |= await _loads(kind, counts, run)
    return figures | {"text_changed": float(any(end.text.changed for end in ends))}


async def _kicks(kind: type[Doorbell], counts: Counts, run: RunTask) -> dict[str, float]:
    """Measure the kick alone, between two bare loops: what disturbs one, disturbs all."""
    before = await _bare(kind, counts)
    kick = await run(Task(program=Program.KICK, count=counts.kicks))
    cycles = kick.figures
    figures = {
        "kick_ns_p50": cycles["p50"] * kick.ns_per_cycle,
        "kick_ns_p99": cycles["p99"] * kick.ns_per_cycle,
        "kick_cycles_p50": float(cycles["p50"]),
        "kick_cycles_p99": float(cycles["p99"]),
        "user_exits": kick.user_kicks / cycles["rung"],
    }
    if bare := before + await _bare(kind, counts):
        floor = statistics.median(bare)
        figures["bare_kick_ns_p50"] = floor * kick.ns_per_cycle
        figures["kick_times_bare"] = cycles["p50"] / floor
    return figures


async def _bare(kind: type[Doorbell], counts: Counts) -> list[int]:
    """Return the cycles of each kick of a bare loop, none where nobody wrote one."""
    if kind not in BARE:
        return []
    return await trio.to_thread.run_sync(bare_kicks, BARE[kind], counts.kicks)


async def _echoes(counts: Counts, run: RunTask) -> dict[str, float]:
    """Measure requests that come back whole, and are looked at."""
    lone = Task(program=Program.ECHO, count=counts.lone, size=SIZE)
    busy = Task(program=Program.ECHO, count=counts.busy, depth=DEPTH, size=SIZE)
    irq = await run(msgspec.structs.replace(lone, interrupt=True))
    poll = await run(lone)
    wake = await run(lone, stamped=True)
    return {
        "wake_us_p50": statistics.median(wake.wakes_ns) / 1000,
        "round_trip_irq_us_p50": irq.figures["p50"] * irq.ns_per_cycle / 1000,
        "round_trip_poll_us_p50": poll.figures["p50"] * poll.ns_per_cycle / 1000,
        "echoes_per_s_depth64": _rate(await run(busy)),
    }


async def _loads(kind: type[Doorbell], counts: Counts, run: RunTask) -> dict[str, float]:
    """Measure how many requests go through when nobody does anything with them."""
    lone = Task(program=Program.LOAD, count=counts.lone_load, size=len(DATA))
    busy = Task(program=Program.LOAD, count=counts.load, size=len(DATA), depth=DEPTH)
    alone, load = await run(lone), await run(busy)
    # The guest counts those that the ring asks for, also where there is nothing to ring.
    kicks = load.figures["kicks"] if kind.notifies else 0
    return {
        "kicks_per_request": kicks / load.figures["requests"],
        "requests_per_s_depth1": _rate(alone),
        "requests_per_s_depth64": _rate(load),
    }


def _rate(outcome: Outcome) -> float:
    seconds = outcome.figures["cycles"] * outcome.ns_per_cycle / 1e9
    return outcome.figures["requests"] / seconds
