"""`paravirt attest`: which doorbell leaves a guest's instructions as they were loaded."""

from __future__ import annotations

import click

from .._errors import BadInput
from .._output import json_option, print_json
from ..doorbells._rows import KINDS
from ._cases import Case, cases
from ._rows import attest_all
from ._show import show

BY_NAME = {kind.name: kind for kind in KINDS}


@click.command(
    epilog="""
    \b
    Examples:
      paravirt attest
      paravirt attest --only pio-ioeventfd --only hypercall-hyperv
      paravirt attest --json > attestation.json
    """
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*BY_NAME]),
    metavar="NAME",
    help="Of all doorbells this one; may be repeated.",
)
@json_option
def attest(*, only: tuple[str, ...], as_json: bool) -> int:
    """Boot the same guest with every doorbell of this host, and compare its text after the run.

    The text is what is executable. The guest then kicks by the hypercall instruction of the other
    CPU vendor: KVM rewrites that in the guest's text, unless it is told not to, or cannot. Rows
    that cannot run say why. The exit code is 1 if the text changed where the guest kicked as it
    should, or nothing can run here.
    """
    kinds = [kind for kind in KINDS if not only or kind.name in only]
    try:
        report = attest_all(cases(kinds))
    except (OSError, RuntimeError) as error:
        raise BadInput(str(error)) from None
    if as_json:
        print_json(report)
    else:
        show(report)
    ran = [row for row in report.rows if row.text is not None]
    changed = any(row.text_changed for row in ran if row.case == Case.OWN)
    return int(changed or not ran)
