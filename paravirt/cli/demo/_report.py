"""What the demo showed: the document, and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .._output import figure, make_table, number

if TYPE_CHECKING:
    from rich.table import Table


class Step(msgspec.Struct):
    """One doorbell's turn; figures that were not reached are null."""

    doorbell: str
    ok: bool = False
    bytes: int = 0
    """Read through the driver."""
    sha256: str | None = None
    """Of what was read."""
    mib_per_s: float | None = None
    requests_per_s: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    kicks_per_request: float | None = None
    calls_per_request: float | None = None


class Report(msgspec.Struct, frozen=True):
    """What `demo --json` prints."""

    ok: bool
    steps: list[Step]


def step_table(steps: list[Step]) -> Table:
    """Lay the steps out as a table."""
    table = make_table()
    table.add_column("\ndoorbell")
    for title in ("\nMiB/s", "\nrequests/s", "kicks per\nrequest", "calls per\nrequest"):
        table.add_column(title, justify="right")
    table.add_column("p50\nus", justify="right")
    table.add_column("p99\nus", justify="right")
    table.add_column("\ndata", justify="right")
    for step in steps:
        table.add_row(
            step.doorbell,
            number(step.mib_per_s),
            number(step.requests_per_s),
            number(step.kicks_per_request, 4),
            number(step.calls_per_request, 4),
            figure(step.p50_us),
            figure(step.p99_us),
            "[green]ok[/]" if step.ok else "[red]FAILED[/]",
        )
    return table
