"""Every load in turn."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import trio
from rich.progress import Progress

from paravirt.hostside.machine import KvmUnavailable

from .._errors import Interrupted
from .._output import make_console
from ._guest import soak_guest
from ._loopback import soak_loopback
from ._row import Report, Row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.progress import TaskID

    from ._row import Load, Plan

    Soak = Callable[[Load, Plan, Callable[[float], None]], Awaitable[Row]]


def soak_all(loads: Sequence[Load], plan: Plan) -> Report:
    """Run the loads, with a progress bar on standard error; raises Interrupted at Ctrl-C."""
    rows: list[Row] = []
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        for load in loads:
            task = progress.add_task(load.name, total=plan.seconds)
            rows.append(soak_one(load, plan, partial(_advance, progress, task)))
            progress.update(task, completed=plan.seconds)
    return Report(1000 * plan.every, plan.seed, rows)


def _advance(progress: Progress, task: TaskID, seconds: float) -> None:
    progress.update(task, completed=seconds)


def soak_one(load: Load, plan: Plan, progress: Callable[[float], None]) -> Row:
    """Run a load, telling `progress` its seconds; raises Interrupted at Ctrl-C."""
    try:
        return _run(soak_guest if load.kvm else soak_loopback, load, plan, progress)
    except KvmUnavailable as error:
        return Row(load=load.name, available=False, outcome=str(error))


def _run(soak: Soak, load: Load, plan: Plan, progress: Callable[[float], None]) -> Row:
    interrupted = False
    try:
        return trio.run(soak, load, plan, progress)
    except* KeyboardInterrupt:
        interrupted = True
    assert interrupted
    raise Interrupted
