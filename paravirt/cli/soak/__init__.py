"""`paravirt soak`: the doorbell of a queue is changed again and again while it is in use."""

from __future__ import annotations

import click

from .._errors import BadInput
from .._output import json_option, print_json
from ._all import soak_all
from ._row import LOADS, Plan
from ._show import show

BY_NAME = {load.name: load for load in LOADS}


@click.command(
    epilog="""
    \b
    Examples:
      paravirt soak
      paravirt soak --seconds 3600 --only kvm-interrupt
      paravirt soak --every 1 --seed 7 --json > soak.json
    """
)
@click.option(
    "--seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.1, 1e6),
    help="How long each load runs.",
)
@click.option(
    "--every",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, 1e6),
    metavar="MS",
    help="Milliseconds from one change to the next.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*BY_NAME]),
    help="Of all loads this one; may be repeated.",
)
@click.option("--seed", default=1, show_default=True, help="Of the order of the doorbells.")
@json_option
def soak(*, seconds: float, every: float, only: tuple[str, ...], seed: int, as_json: bool) -> int:
    """Change the doorbell of a busy queue, from any kind to any other, and check every request.

    The device counts the requests: each carries its number, and has to come once and in its turn.
    The driver compares every reply. In loopback the driver is in this process; on KVM it is a guest
    without an operating system, whose doorbells are those that this host has. One request at a
    time, so that each is kicked for, and 64, so that few are. Loads that cannot run say why. The
    exit code is 1 if a request was lost, repeated or wrong, or if nothing can run here.
    """
    loads = [load for load in LOADS if not only or load.name in only]
    try:
        report = soak_all(loads, Plan(seconds=seconds, every=every / 1000, seed=seed))
    except (OSError, RuntimeError) as error:
        raise BadInput(str(error)) from None
    if as_json:
        print_json(report)
    else:
        show(report)
    ran = [row for row in report.rows if row.available]
    return int(not ran or any(row.outcome != "ok" for row in ran))
