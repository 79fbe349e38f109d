"""How far the demo is, on standard error if that is a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from rich.console import Console

REFRESH_NS = 100_000_000


class Bar:
    """One bar over all the bytes that the demo will move.

    It is drawn by whoever advances it, between two measured pieces: a thread of its own would take
    the interpreter's lock in the middle of them.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)
        self._due = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line on standard output, with the bar out of the way."""
        self._progress.stop()
        click.echo(line)
        self._progress.start()

    def expect(self, total: int) -> None:
        """Set how many bytes there will be."""
        self._progress.update(self._task, total=total)

    def begin(self, description: str) -> None:
        """Say what comes next."""
        self._progress.update(self._task, description=description, refresh=True)

    def advance(self, count: int) -> None:
        """Note that bytes were moved."""
        now = time.monotonic_ns()
        refresh = now >= self._due
        if refresh:
            self._due = now + REFRESH_NS
        self._progress.update(self._task, advance=count, refresh=refresh)
