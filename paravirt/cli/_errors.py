"""What a command tells the user who did, or met, something that it cannot work with."""

from __future__ import annotations

import signal

import click


class CommandError(click.ClickException):
    """The end of a command: one line on standard error, and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class BadInput(CommandError):
    """What was asked for cannot be done; the message says what to do instead."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 2)


class Interrupted(CommandError):
    """A signal stopped the command; the exit code is the one that a shell gives it."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__("stopped", 128 + number)


def complain(message: str) -> None:
    """Print one line on standard error."""
    click.echo(f"paravirt: {message}", err=True)
