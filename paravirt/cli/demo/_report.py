"""What the demo showed: the document, and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .._output import figure, make_table, number
from ._size import binary

if TYPE_CHECKING:
    from rich.table import Table


class Seen(msgspec.Struct, frozen=True):
    """What a Linux guest found."""

    kernel: str
    """Its release, as `uname -r` says."""
    start_s: float
    """Seconds from nothing until it did what it was told."""
    file_system: str | None = None
    """The type of what is on the disk; null if it is none that the kernel knows."""
    files: int | None = None
    """How many files that has."""


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
    guest: Seen | msgspec.UnsetType = msgspec.UNSET
    """Only in the guest's step."""


class Report(msgspec.Struct, frozen=True):
    """What `demo --json` prints."""

    ok: bool
    steps: list[Step]


def seen_by_guest(step: Step, seen: Seen) -> str:
    """Tell what the guest saw."""
    if seen.file_system is None:
        mounted = "It mounted nothing: there is no file system on it that this kernel knows."
    else:
        mounted = f"It mounted it: {seen.file_system} with {number(seen.files)} files."
    return (
        f"Linux {seen.kernel} was up in {seen.start_s} s.\n"
        f"It read {binary(step.bytes)} in pieces of 1 MiB, and they are the file's. {mounted}\n"
        "What it wrote to the copy is in the file."
    )


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
