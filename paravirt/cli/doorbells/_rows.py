"""Every doorbell in turn, again and again: the rows of the report."""

from __future__ import annotations

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
from paravirt.hostside.machine import KvmUnavailable, Machine as KvmMachine

from ..bench._report import Case, Machine, run_cases
from ._measure import DEPTH, SIZE, measure_guest, measure_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.doorbells import Doorbell

    from ..bench._report import Result
    from ._measure import Counts

KINDS: Final[tuple[type[Doorbell], ...]] = (
    *(PioIoeventfd, PioExit, MmioIoeventfd, MmioWildcard, PioWildcard),
    *(PioDatamatch, MmioDatamatch, MmioExit, HyperV, XenEvtchn, HypercallExit),
    *(Vmport, Polling, Adaptive),
)
LOOPBACK: Final = "loopback"


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
    bare_kick_ns_p50: float | None = None
    """What it costs in a VM that only kicks, in C (None where nobody wrote one)."""
    kick_times_bare: float | None = None
    """How many times that our kick costs: the median of the runs' ratios."""
    wake_us_p50: float | None = None
    """From just before a kick to the device's handler."""
    round_trip_irq_us_p50: float | None = None
    """A request and its answer at depth 1, the guest asleep until an interrupt."""
    round_trip_poll_us_p50: float | None = None
    """The same, the guest looking at the ring."""
    kicks_per_request: float | None = None
    """Of the load at depth 64."""
    requests_per_s_depth1: float | None = None
    """A plain load, whose device does nothing; the guest looks at the ring."""
    requests_per_s_depth64: float | None = None
    echoes_per_s_depth64: float | None = None
    """With a device that sends back 64 bytes, all of them checked."""
    user_exits: float | None = None
    """Exits to user space that one kick takes."""
    text_changed: bool | None = None
    """Whether the guest's instructions were rewritten while it ran."""


class Report(msgspec.Struct, frozen=True):
    """The document that `--json` prints."""

    machine: Machine
    rows: list[Row]
    loopback_requests_per_s_depth64: float | None
    """The same load without a guest: a C loop in this process, both sides polling."""


def measure_all(kinds: Sequence[type[Doorbell]], counts: Counts, runs: int) -> Report:
    """Measure what this host has of `kinds`, interleaved.

    Raises CommandError for a guest that fails, Interrupted at Ctrl-C.
    """
    found = {kind: availability(kind) for kind in kinds}
    cases = [
        Case(kind.name, "kvm", 0, SIZE, partial(measure_guest, kind, counts))
        for kind, (available, _) in found.items()
        if available
    ]
    if cases:
        cases.append(Case(LOOPBACK, "", DEPTH, SIZE, partial(measure_loopback, counts)))
    report = run_cases("doorbells", cases, runs)
    rows = [
        _row(kind.name, available, reason, report.results)
        for kind, (available, reason) in found.items()
    ]
    loopback = [result.median for result in report.results if result.case == LOOPBACK]
    return Report(report.machine, rows, loopback[0] if loopback else None)


def availability(kind: type[Doorbell]) -> tuple[bool, str]:
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


def _row(name: str, available: bool, reason: str, results: Sequence[Result]) -> Row:
    mine = {result.metric: result for result in results if result.case == name}
    figures: dict[str, object] = {metric: result.median for metric, result in mine.items()}
    if mine:
        figures["text_changed"] = bool(mine["text_changed"].max)
    fixed = {"doorbell": name, "available": available, "reason": reason}
    return msgspec.convert(fixed | figures, Row)
