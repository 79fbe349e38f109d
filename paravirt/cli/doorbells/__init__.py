"""`paravirt doorbells`: the argument of 2009 as one command."""

from __future__ import annotations

from pathlib import Path

import click

from .._errors import BadInput
from .._output import json_option, print_json
from ._measure import Counts
from ._picture import check_picture, draw
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
      paravirt doorbells --png doorbells.png
    """
)
@click.option(
    "--runs",
    default=5,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="How often each doorbell is measured, all in turn.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*BY_NAME]),
    metavar="NAME",
    help="Of all doorbells this one; may be repeated.",
)
@click.option(
    "--png",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write the figures as a picture, too.",
)
@json_option
def doorbells(*, runs: int, only: tuple[str, ...], png: Path | None, as_json: bool) -> int:
    """Boot the same guest with every doorbell this host has, all in turn, and print medians.

    What a kick costs the guest; how long it takes to the device's handler; a request there and
    back; requests per second; whether KVM rewrote the guest's instructions for it. Rows that cannot
    run say why. The exit code is 1 if there is none that can.
    """
    if png:
        check_picture(png)
    kinds = [kind for kind in KINDS if not only or kind.name in only]
    try:
        report = measure_all(kinds, Counts(), runs)
    except (OSError, RuntimeError) as error:
        raise BadInput(str(error)) from None
    if as_json:
        print_json(report)
    else:
        show(report)
    if png:
        try:
            draw(report, png)
        except OSError as error:
            raise BadInput(f"{png}: {error.strerror}") from None
    return int(not any(row.available for row in report.rows))
