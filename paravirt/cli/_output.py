"""What all commands print with: one JSON document, or tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")


def json_option(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `--json`, as its argument `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
    )(command)


def print_json(document: msgspec.Struct) -> None:
    """Print a document on standard output."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    click.echo(text)


def make_console(*, stderr: bool = False) -> Console:
    """Make a console whose colours are ours alone: numbers and paths are not guessed at."""
    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def make_table(title: str | None = None) -> Table:
    """Make an empty table in the house style: a rule under the header, and air."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        header_style="bold",
        padding=(0, 1),
        pad_edge=False,
    )


def number(value: float | None, digits: int = 0) -> str:
    """Write a figure with thousands set apart, `-` for one that is not there."""
    return "-" if value is None else f"{value:,.{digits}f}"


def figure(value: float | None) -> str:
    """Write a figure that may be small, with three digits at least."""
    digits = 0 if value is None or value >= 100 else 1 if value >= 10 else 2
    return number(value, digits)
