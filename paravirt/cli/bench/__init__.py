"""`paravirt bench`: measure this machine."""

from __future__ import annotations

import click

from ._block import block
from ._connections import idle
from ._ring import ring
from ._serve import serving
from ._vhost_user import vhost_user


@click.group(
    invoke_without_command=True,
    epilog="""
    \b
    Examples:
      paravirt bench ring
      paravirt bench serve --json
      paravirt bench block
      paravirt bench vhost-user
    """,
)
@click.pass_context
def bench(context: click.Context) -> None:
    """Measure rings, servers, disks, backends and idle connections on this machine."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


bench.add_command(ring)
bench.add_command(serving)
bench.add_command(block)
bench.add_command(vhost_user)
bench.add_command(idle)
