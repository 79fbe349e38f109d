"""The report for people: tables, bars, and why some rows are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._output import figure, make_console, make_table, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ._rows import Report, Row

BAR: Final = 40
"""Characters of the longest bar: with the longest name and a figure it fits into 80."""


def show(report: Report) -> None:
    """Print everything."""
    console = make_console()
    rows = [row for row in report.rows if row.available]
    if rows:
        _kicks(console, rows)
        _requests(console, rows)
        _bars(console, rows)
        loopback = number(report.loopback_requests_per_s_depth64)
        console.print(f"The same load without a guest, at depth 64: {loopback} a second.")
    for row in report.rows:
        if not row.available:
            console.print(f"{row.doorbell}: not here: {row.reason}", markup=False)
    machine = report.machine
    console.print(
        f"Medians. {machine.cpu}, {machine.cpus} CPUs; a cache line there and back"
        f" {machine.ping_pong_ns:.0f} ns, stolen {machine.steal_percent:.1f} %.",
        markup=False,
    )


def _kicks(console: Console, rows: Sequence[Row]) -> None:
    table = make_table("One kick, its cost over a bare C loop's, us until it is heard")
    table.add_column("doorbell", no_wrap=True)
    for column in ("ns", "p99 ns", "cycles", "bare", "heard", "exits", "text"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.doorbell,
            number(row.kick_ns_p50),
            number(row.kick_ns_p99),
            number(row.kick_cycles_p50),
            number(row.kick_times_bare, 2),
            figure(row.wake_us_p50),
            number(row.user_exits),
            "new" if row.text_changed else "same",
        )
    console.print(table)


def _requests(console: Console, rows: Sequence[Row]) -> None:
    table = make_table("A request there and back; plain ones, a second")
    table.add_column("doorbell", no_wrap=True)
    for column in ("irq us", "poll us", "depth 1", "depth 64", "kicks each"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.doorbell,
            figure(row.round_trip_irq_us_p50),
            figure(row.round_trip_poll_us_p50),
            number(row.requests_per_s_depth1),
            number(row.requests_per_s_depth64),
            number(row.kicks_per_request, 5),
        )
    console.print(table)


def _bars(console: Console, rows: Sequence[Row]) -> None:
    console.print("[bold]What a kick costs the guest, ns[/bold]")
    costs = [(row.doorbell, row.kick_ns_p50 or 0.0) for row in rows]
    most = max(cost for _, cost in costs) or 1.0
    for name, cost in costs:
        console.print(f"{name:24} {'█' * round(BAR * cost / most):{BAR}} {number(cost):>8}")
    console.print()
