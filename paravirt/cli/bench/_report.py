"""What every benchmark reports, and the way it runs: all cases in turn, again and again."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.progress import Progress

from paravirt.transport.bench import ping_pong_ns

from .._output import json_option, make_console, make_table, number, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Measure = Callable[[], Mapping[str, float]]
    Command = Callable[..., Any]

OURS = "paravirt"
RUNS = 5
"""Of each case, all in turn: a machine that is busy for a while then hits all alike."""
PING_PONGS = 200_000
"""About 30 ms: enough for three digits."""


class Case(msgspec.Struct, frozen=True):
    """Something to measure."""

    name: str
    peer: str
    """`paravirt`, or what it is compared with."""
    depth: int
    """Requests outstanding."""
    size: int
    """Bytes a request."""
    measure: Measure
    """Measures once; returns a figure for each metric."""


class Result(msgspec.Struct, frozen=True):
    """One metric of one case over all runs."""

    bench: str
    case: str
    peer: str
    depth: int
    size: int
    metric: str
    median: float
    min: float
    max: float
    runs: int


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    cpu: str
    cpus: int
    kernel: str
    python: str
    ping_pong_ns: float
    """A cache line to another CPU and back, during the runs: how busy or spread the machine was."""
    steal_percent: float
    """CPU time that the host took away during the runs."""


class Report(msgspec.Struct, frozen=True):
    """The document that `--json` prints."""

    machine: Machine
    results: list[Result]


def bench_options(command: Command) -> Command:
    """Give a benchmark `--runs` and `--json`."""
    option = click.option(
        "--runs",
        default=RUNS,
        show_default=True,
        type=click.IntRange(1, 1000),
        help="How often each case is measured, all in turn.",
    )
    return option(json_option(command))


def run_cases(bench: str, cases: Sequence[Case], runs: int) -> Report:
    """Measure all cases `runs` times, interleaved, with a progress bar on standard error."""
    figures: list[dict[str, list[float]]] = [{} for _ in cases]
    bounces: list[float] = []
    before = _steal()
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"bench {bench}", total=runs * len(cases))
        for _ in range(runs):
            bounces.append(ping_pong_ns(PING_PONGS))
            for case, seen in zip(cases, figures, strict=True):
                for metric, value in case.measure().items():
                    seen.setdefault(metric, []).append(value)
                progress.advance(task)
    return Report(_machine(bounces, before), list(_results(bench, cases, figures)))


def show(report: Report, *, as_json: bool) -> None:
    """Print a report for a program or for people."""
    if as_json:
        print_json(report)
        return
    table = make_table()
    for column in ("case", "peer"):
        table.add_column(column, overflow="fold")  # three modes of one peer differ at the end
    for column in ("depth", "metric", "median", "min", "max"):
        table.add_column(column, justify="right")
    for row in report.results:
        digits = 0 if row.median >= 1000 else 1 if row.median >= 10 else 3
        figures = (number(value, digits) for value in (row.median, row.min, row.max))
        table.add_row(row.case, row.peer, str(row.depth), row.metric, *figures)
    console = make_console()
    console.print(table)
    machine = report.machine
    console.print(
        f"{machine.cpu}, {machine.cpus} CPUs; a cache line there and back"
        f" {machine.ping_pong_ns:.0f} ns, stolen {machine.steal_percent:.1f} %."
    )


def _results(
    bench: str, cases: Sequence[Case], figures: Sequence[Mapping[str, list[float]]]
) -> list[Result]:
    return [
        Result(
            bench=bench,
            case=case.name,
            peer=case.peer,
            depth=case.depth,
            size=case.size,
            metric=metric,
            median=statistics.median(values),
            min=min(values),
            max=max(values),
            runs=len(values),
        )
        for case, seen in zip(cases, figures, strict=True)
        for metric, values in seen.items()
    ]


def _machine(bounces: list[float], before: tuple[int, int]) -> Machine:
    stolen, total = (now - then for now, then in zip(_steal(), before, strict=True))
    return Machine(
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        ping_pong_ns=statistics.median(bounces),
        steal_percent=100 * stolen / total if total else 0.0,
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _steal() -> tuple[int, int]:
    """Return stolen and total CPU time since boot, in ticks (proc(5))."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[7], sum(ticks)
