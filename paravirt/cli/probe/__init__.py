"""`paravirt probe`: what a vhost-user backend is, in words."""

from __future__ import annotations

from functools import partial

import click
import trio
from rich.markup import escape

from paravirt.transport import PeerError

from .._errors import BadInput, CommandError
from .._output import json_option, make_console, make_table, print_json
from ._ask import Findings, ask
from ._words import KINDS


@click.command(
    epilog="""
    \b
    Examples:
      paravirt probe disk.sock
      paravirt probe disk.sock --json
      paravirt probe net.sock --device none
    """
)
@click.argument("socket")
@click.option(
    "--device",
    type=click.Choice(KINDS),
    default="block",
    show_default=True,
    help="Whose names to give to feature bits and configuration; vhost-user does not say.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds that the backend has to answer.",
)
@json_option
def probe(*, socket: str, device: str, timeout: float, as_json: bool) -> None:
    """Show what the vhost-user backend that listens at SOCKET offers.

    It is asked as by any frontend, but no memory is shared and no queue started.
    """
    findings = _probe(socket, device, timeout)
    if as_json:
        print_json(findings.document)
    else:
        _show(socket, device, findings)


def _probe(path: str, device: str, seconds: float) -> Findings:
    try:
        return trio.run(partial(ask, path, device, seconds))
    except OSError as error:
        raise BadInput(f"cannot connect to {path}: {error.strerror or error}") from None
    except trio.TooSlowError:
        text = f"{path} did not answer within {seconds:g} s; does another frontend have it?"
        raise CommandError(text, 1) from None
    except PeerError as error:
        raise CommandError(f"what listens at {path} is no vhost-user backend: {error}", 1) from None
    except trio.BrokenResourceError:
        raise CommandError(f"{path} closed the connection while it was asked", 1) from None


def _show(path: str, device: str, findings: Findings) -> None:
    document = findings.document
    console = make_console()
    console.print(f"[bold]{escape(path)}[/]")
    table = make_table()
    table.show_header = False
    queues = "does not say" if document.queues is None else str(document.queues)
    table.add_row("features", ", ".join(findings.features))
    table.add_row("protocol features", ", ".join(findings.protocol_features) or "none")
    table.add_row("queues", queues)
    table.add_row("memory slots", str(findings.slots) if findings.slots else "8, as one table")
    lines = [f"{name} = {value}" for name, value in document.config.items() if value]
    table.add_row("configuration", escape("\n".join(lines) or findings.without_config))
    console.print(table)
    if device != "none":
        console.print(f"Read as a {device} device: vhost-user does not say what it is.")
