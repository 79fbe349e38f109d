"""`paravirt bench`: measure this machine."""

from __future__ import annotations

import click

from ._block import block
from ._connections import idle
from ._ring import ring
from ._serve import serving


@click.group(
    invoke_without_command=True,
    epilog="""
    \b
    Examples:
      paravirt bench ring
      paravirt bench serve --json
      paravirt bench block
    """,
)
@click.pass_context
def bench(context: click.Context) -> None:
    """Measure the ring, the server, the block device and idle connections on this machine."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


bench.add_command(ring)
bench.add_command(serving)
bench.add_command(block)
bench.add_command(idle)
