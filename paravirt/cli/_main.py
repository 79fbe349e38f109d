"""The root command, and how every command ends."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from paravirt import __version__

from ._errors import BadInput, CommandError, Interrupted, complain

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("demo", "doctor", "bench", "serve", "probe", "doorbells", "soak", "attest", "run")
FOLDERS = {"run": "machine"}
"""Packages of commands that are not called like them."""
CORE = "paravirt.transport._core"


class Commands(click.Group):
    """Commands that are imported when they are asked for: `doctor` then works without a C core."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help text."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; each is a package that has it by its own name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        package = importlib.import_module(f".{FOLDERS.get(cmd_name, cmd_name)}", __package__)
        command: object = getattr(package, cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""
    \b
    Examples:
      paravirt demo                see a disk image served through a virtio ring
      paravirt doctor              see what this machine offers, and why not
      paravirt bench --help        see what can be measured
      paravirt serve --help        see what a virtual machine can attach to
      paravirt probe --help        see what a vhost-user backend offers
      paravirt doorbells           time every kind of kick from a guest
      paravirt soak                change doorbells under load, losing nothing
      paravirt attest              see which of them leaves a guest's text alone
      paravirt run --help          boot a bare-metal guest of yours on KVM
    """,
)
@click.version_option(__version__, prog_name="paravirt")
@click.pass_context
def main(context: click.Context) -> None:
    """Paravirtual devices in Python: virtio rings, and doorbells that only notify."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if something failed, 2 for bad input.

    Results go to standard output and errors, one line each, to standard error. A command that a
    signal ended returns 128 and the signal's number.
    """
    try:
        return _run(arguments)
    except CommandError as error:
        complain(error.message)
        return error.code


def _run(arguments: Sequence[str] | None) -> int:
    """Run one command; raises `CommandError` for whatever is not a bug."""
    try:
        result: object = main.main(arguments, prog_name="paravirt", standalone_mode=False)
    except click.Abort:
        raise Interrupted from None
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "paravirt"
        text = error.format_message().rstrip(".")
        raise BadInput(f"{text} (see `{where} --help`)") from None
    except ModuleNotFoundError as error:
        if error.name != CORE:
            raise
        raise BadInput("the C core is not built: run `make install`") from None
    return result if isinstance(result, int) else 0
