"""The report for people: a table, and one line on what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._output import make_console, make_table
from ._cases import Case

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._rows import Attestation, Row

WORDS: Final = {
    Case.OWN: "",
    Case.OTHER: "other vendor's instruction",
    Case.KEPT: "other vendor's, KVM told to keep it",
    Case.READONLY: "other vendor's, text read-only",
}


def show(report: Attestation) -> None:
    """Print everything."""
    console = make_console()
    table = make_table()
    table.add_column("doorbell", no_wrap=True)
    table.add_column("how", no_wrap=True)
    table.add_column("text", no_wrap=True)
    table.add_column("what happened")
    for row in report.rows:
        if row.text is not None:
            text = "new" if row.text_changed else "same"
            table.add_row(row.doorbell, WORDS[Case(row.case)], text, row.outcome)
    console.print(table)
    for row in report.rows:
        if row.text is None:
            console.print(f"{_name(row)}: not here: {row.outcome}", markup=False)
    for line in summary(report.rows):
        console.print(line, markup=False)
    console.print(f"SHA-256 of the text as it was loaded: {report.measured}", markup=False)


def summary(rows: Sequence[Row]) -> list[str]:
    """Say which left the text as it was, and which did not and how."""
    same = [_name(row) for row in rows if row.text_changed is False]
    lines = [f"Text as it was loaded: {'; '.join(same) or 'none'}."]
    for row in rows:
        if row.text is not None and row.text_changed:
            lines += [f"Text rewritten: {_name(row)}: {page}." for page in row.text.changed]
    return lines


def _name(row: Row) -> str:
    how = WORDS[Case(row.case)]
    return f"{row.doorbell}, {how}" if how else row.doorbell
