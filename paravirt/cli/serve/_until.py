"""Serving from the command line: log lines on standard error, and an end by signal."""

from __future__ import annotations

import logging
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING

import click
import trio

from paravirt.hostside.vhost_user import serve_vhost_user

from .._errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from paravirt.hostside import Device
    from paravirt.hostside.vhost_user import Terms

ENDS = (signal.SIGTERM, signal.SIGINT)


def serve_until_told(
    device: Device,
    where: str | int,
    text: Callable[[str], str],
    *,
    connect: bool = False,
    terms: Terms | None = None,
) -> None:
    """Serve at a path, or on a descriptor, until a signal ends it; prints `text(path)` first.

    With `connect` somebody else listens at the path. Raises `BadInput` if it cannot.
    """
    options = partial(serve_vhost_user, device, connect=connect, terms=terms)
    logging.basicConfig(format="paravirt: %(message)s", level=logging.WARNING)
    try:
        trio.run(_serve, options, where, text)
    except* OSError as errors:
        raise BadInput(_plain(errors)) from None


async def _serve(
    serve: Callable[..., Awaitable[None]], where: str | int, text: Callable[[str], str]
) -> None:
    with trio.open_signal_receiver(*ENDS) as signals:
        async with trio.open_nursery() as nursery:
            place = where if isinstance(where, str) else _adopt(where)
            nursery.start_soon(_run, nursery, partial(serve, place), text)
            async for _ in signals:
                nursery.cancel_scope.cancel()


async def _run(
    nursery: trio.Nursery, serving: Callable[..., Awaitable[None]], text: Callable[[str], str]
) -> None:
    async with trio.open_nursery() as inner:
        click.echo(text(await inner.start(serving)), err=True, nl=False)
    nursery.cancel_scope.cancel()  # the one connection of --fd is over


def _adopt(fd: int) -> trio.SocketListener | trio.SocketStream:
    try:
        raw = socket.socket(fileno=fd)
    except OSError as error:
        raise OSError(error.errno, f"descriptor {fd} is no socket") from None
    sock = trio.socket.from_stdlib_socket(raw)
    if raw.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return trio.SocketListener(sock)
    return trio.SocketStream(sock)


def _plain(errors: BaseExceptionGroup[OSError]) -> str:
    """Name the first error, as a person would."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, OSError)
    place = f"{first.filename}: " if first.filename else ""
    return f"{place}{first.strerror}"
