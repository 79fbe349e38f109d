"""Every doorbell in turn, again and again: the rows of the report."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from paravirt.doorbells import Adaptive, Polling
from paravirt.doorbells.kvm import (
    HypercallExit,
    HyperV,
    MmioDatamatch,
    MmioExit,
    MmioIoeventfd,
    MmioWildcard,
    PioDatamatch,
    PioExit,
    PioIoeventfd,
    PioWildcard,
    Vmport,
    XenEvtchn,
    probe,
)
from paravirt.guestside.payload import Program, Task
from paravirt.hostside.machine import KvmUnavailable, Machine as KvmMachine

from .._errors import Interrupted
from ..bench._report import Case, Machine, run_cases
from ._guest import run_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from paravirt.doorbells import Doorbell

    from ..bench._report import Result
    from ._guest import Outcome

KINDS: Final[tuple[type[Doorbell], ...]] = (
    *(PioIoeventfd, PioExit, MmioIoeventfd, MmioWildcard, PioWildcard),
    *(PioDatamatch, MmioDatamatch, MmioExit, HyperV, XenEvtchn, HypercallExit),
    *(Vmport, Polling, Adaptive),
)
SIZE: Final = 64
"""Bytes a request."""
DEPTH: Final = 64


class Counts(msgspec.Struct, frozen=True):
    """How much of each, in one run of one doorbell."""

    kicks: int = 2_000  # 8 to 70 ms; p99 rests on 20
    lone: int = 500  # requests at depth 1, some 0.1 ms each
    busy: int = 20_000  # requests at depth 64: 0.1-0.3 s


class Row(msgspec.Struct, frozen=True):
    """One doorbell; each figure is the median of its runs, None where there were none."""

    doorbell: str
    available: bool
    reason: str
    """Why not, or how it behaves here."""
    kick_ns_p50: float | None = None
    """What one kick costs the guest."""
    kick_ns_p99: float | None = None
    kick_cycles_p50: float | None = None
    kick_cycles_p99: float | None = None
    wake_us_p50: float | None = None
    """From just before a kick to the device's handler."""
    round_trip_irq_us_p50: float | None = None
    """A request and its answer at depth 1, the guest asleep until an interrupt."""
    round_trip_poll_us_p50: float | None = None
    """The same, the guest looking at the ring."""
    kicks_per_request: float | None = None
    """At depth 64."""
    requests_per_s_depth1: float | None = None
    """With a guest that looks at the ring."""
    requests_per_s_depth64: float | None = None
    user_exits: float | None = None
    """Exits to user space that one kick takes."""
    text_changed: bool | None = None
    """Whether the guest's instructions were rewritten while it ran."""


class Report(msgspec.Struct, frozen=True):
    """The document that `--json` prints."""

    machine: Machine
    rows: list[Row]


def measure_all(kinds: Sequence[type[Doorbell]], counts: Counts, runs: int) -> Report:
    """Measure what this host has of `kinds`, interleaved.

    Raises CommandError for a guest that fails, Interrupted at Ctrl-C.
    """
    found = {kind: _availability(kind) for kind in kinds}
    cases = [
        Case(kind.name, "kvm", 0, SIZE, partial(_measure, kind, counts))
        for kind, (available, _) in found.items()
        if available
    ]
    report = run_cases("doorbells", cases, runs)
    rows = [
        _row(kind.name, available, reason, report.results)
        for kind, (available, reason) in found.items()
    ]
    return Report(report.machine, rows)


def _availability(kind: type[Doorbell]) -> tuple[bool, str]:
    """Say whether a guest can have it here, and why not."""
    for answer in probe():
        if answer.name == kind.name:
            return answer.available, answer.reason
    try:
        trio.run(_try_machine)
    except KvmUnavailable as error:
        return False, str(error)
    return True, ""


async def _try_machine() -> None:
    async with KvmMachine():
        pass


def _measure(kind: type[Doorbell], counts: Counts) -> Mapping[str, float]:
    """Measure one doorbell once."""
    interrupted = False
    try:
        return trio.run(_figures, kind, counts)
    except* KeyboardInterrupt:
        interrupted = True
    assert interrupted
    raise Interrupted


async def _figures(kind: type[Doorbell], counts: Counts) -> Mapping[str, float]:
    lone = Task(program=Program.ECHO, count=counts.lone, size=SIZE)
    kick = await run_task(kind, Task(program=Program.KICK, count=counts.kicks))
    irq = await run_task(kind, msgspec.structs.replace(lone, interrupt=True))
    poll = await run_task(kind, lone)
    wake = await run_task(kind, lone, stamped=True)
    busy = await run_task(
        kind, Task(program=Program.ECHO, count=counts.busy, depth=DEPTH, size=SIZE)
    )
    figures = kick.figures
    # The guest counts those that the ring asks for, also where there is nothing to ring.
    kicks = busy.figures["kicks"] if kind.notifies else 0
    return {
        "kick_ns_p50": figures["p50"] * kick.ns_per_cycle,
        "kick_ns_p99": figures["p99"] * kick.ns_per_cycle,
        "kick_cycles_p50": figures["p50"],
        "kick_cycles_p99": figures["p99"],
        "wake_us_p50": statistics.median(wake.wakes_ns) / 1000,
        "round_trip_irq_us_p50": irq.figures["p50"] * irq.ns_per_cycle / 1000,
        "round_trip_poll_us_p50": poll.figures["p50"] * poll.ns_per_cycle / 1000,
        "kicks_per_request": kicks / busy.figures["requests"],
        "requests_per_s_depth1": _rate(poll),
        "requests_per_s_depth64": _rate(busy),
        "user_exits": kick.user_kicks / figures["rung"],
        "text_changed": any(end.text.changed for end in (kick, irq, poll, wake, busy)),
    }


def _rate(outcome: Outcome) -> float:
    seconds = outcome.figures["cycles"] * outcome.ns_per_cycle / 1e9
    return outcome.figures["requests"] / seconds


def _row(name: str, available: bool, reason: str, results: Sequence[Result]) -> Row:
    mine = {result.metric: result for result in results if result.case == name}
    figures: dict[str, object] = {metric: result.median for metric, result in mine.items()}
    if mine:
        figures["text_changed"] = bool(mine["text_changed"].max)
    fixed = {"doorbell": name, "available": available, "reason": reason}
    return msgspec.convert(fixed | figures, Row)
