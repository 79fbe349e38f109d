"""`paravirt doorbells`: the argument of 2009 as one command."""

from __future__ import annotations

import click

from .._errors import BadInput
from .._output import json_option, print_json
from ._measure import Counts
from ._rows import KINDS, measure_all
from ._show import show

BY_NAME = {kind.name: kind for kind in KINDS}


@click.command(
    epilog="""
    \b
    Examples:
      paravirt doorbells
      paravirt doorbells --runs 10 --json > doorbells.json
      paravirt doorbells --only pio-ioeventfd --only pio-exit
    """
)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option("--only", multiple=True, type=click.Choice([*BY_NAME]), metavar="NAME")
@json_option
def doorbells(*, runs: int, only: tuple[str, ...], as_json: bool) -> int:
    """Boot the same guest with every doorbell this host has, all in turn, and print medians.

    What a kick costs the guest; how long it takes to the device's handler; a request there and
    back; requests per second; whether KVM rewrote the guest's instructions for it. Rows that cannot
    run say why. The exit code is 1 if there is none that can.
    """
    kinds = [kind for kind in KINDS if not only or kind.name in only]
    try:
        report = measure_all(kinds, Counts(), runs)
    except (OSError, RuntimeError) as error:
        raise BadInput(str(error)) from None
    if as_json:
        print_json(report)
    else:
        show(report)
    return int(not any(row.available for row in report.rows))
