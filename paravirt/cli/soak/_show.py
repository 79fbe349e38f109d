"""The report for people: a table, and one line that sums it up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._output import figure, make_console, make_table, number

if TYPE_CHECKING:
    from ._row import Report


def show(report: Report) -> None:
    """Print everything."""
    console = make_console()
    ran = [row for row in report.rows if row.available]
    if ran:
        table = make_table(f"The doorbell changed every {report.every_ms:g} ms")
        table.add_column("load", no_wrap=True)
        for column in ("kinds", "swaps", "ms", "max ms", "requests", "lost", "repeated"):
            table.add_column(column, justify="right")
        for row in ran:
            table.add_row(
                row.load,
                str(len(row.kinds)),
                number(row.swaps),
                figure(row.swap_ms_p50),
                figure(row.swap_ms_max),
                number(row.requests),
                number(row.lost),
                number(row.repeated),
            )
        console.print(table)
    for row in report.rows:
        if not row.available:
            console.print(f"{row.load}: not here: {row.outcome}", markup=False)
        elif row.outcome != "ok":
            console.print(f"{row.load}: {row.outcome}", markup=False)
    if ran:
        lost = "?" if any(row.lost is None for row in ran) else sum(row.lost or 0 for row in ran)
        console.print(
            f"{sum(row.swaps for row in ran)} swaps, {sum(row.requests or 0 for row in ran)}"
            f" requests: lost={lost} repeated={sum(row.repeated for row in ran)}",
            markup=False,
        )
