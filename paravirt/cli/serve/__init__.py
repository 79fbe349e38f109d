"""`paravirt serve`: a device for a virtual machine of another program's, over vhost-user."""

from __future__ import annotations

import click

from ._block import block


@click.group(
    invoke_without_command=True,
    epilog="""
    \b
    Examples:
      paravirt serve block disk.img --socket-path disk.sock
    """,
)
@click.pass_context
def serve(context: click.Context) -> None:
    """Serve a device to QEMU, Cloud Hypervisor or another frontend."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


serve.add_command(block)
