"""`paravirt doctor`: what this machine offers, and why not."""

from __future__ import annotations

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from .._output import json_option, make_console, print_json
from ._check import Check, Section
from ._doorbells import doorbell_checks, guest_doorbell_checks
from ._files import file_checks
from ._host import host_checks
from ._kvm import kvm_checks
from ._qemu import qemu_checks


class Checkup(msgspec.Struct, frozen=True):
    """What `doctor --json` prints."""

    checks: list[Check]


def examine() -> list[Section]:
    """Make all checks, those that belong together in one section."""
    return [
        Section("This host", host_checks()),
        Section("Doorbells", doorbell_checks()),
        Section("Doorbells of a guest on KVM, each rung once", guest_doorbell_checks()),
        Section("Files here", file_checks()),
        Section("KVM, by what the kernel says: necessary, not sufficient", kvm_checks()),
        Section("QEMU", qemu_checks()),
    ]


@click.command(
    epilog="""
    \b
    Examples:
      paravirt doctor
      paravirt doctor --json
    """
)
@json_option
def doctor(*, as_json: bool) -> None:
    """Show what this machine offers to paravirtual devices, and why not.

    Nothing is changed. A virtual machine of one page tries what a guest can ring.
    """
    sections = examine()
    if as_json:
        print_json(Checkup([check for section in sections for check in section.checks]))
        return
    console = make_console()
    width = max(len(check.name) for section in sections for check in section.checks)
    for section in sections:
        console.print(f"[bold]{section.title}[/]")
        console.print(_table(section, width))


def _table(section: Section, width: int) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(width=3)
    table.add_column(width=width)
    table.add_column()
    for check in section.checks:
        answer = "[green]yes[/]" if check.available else "[yellow]no[/]"
        table.add_row(answer, check.name, escape(check.reason))
    table.add_section()
    table.add_row()
    return table
