"""`paravirt serve block`: a disk image for a virtual machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from paravirt.hostside import Block, ImageError

from .._errors import BadInput
from ._attach import attach_options
from ._terms import parse_terms
from ._until import serve_until_told

One = TypeVar("One")
Other = TypeVar("Other")


class Capabilities(msgspec.Struct, frozen=True):
    """What `--print-capabilities` prints, as vhost-user's conventions for backends want it."""

    type: str
    features: list[str]


@click.command(
    epilog="""
    \b
    Examples:
      paravirt serve block disk.img --socket-path disk.sock
      paravirt serve block disk.img --socket-path disk.sock --read-only
      paravirt serve block disk.img --socket-path qemu.sock --connect
      paravirt serve block --print-capabilities
    """
)
@click.argument("image", required=False, type=click.Path(path_type=Path))
@click.option("--blk-file", type=click.Path(path_type=Path), help="The image, by another name.")
@click.option("--socket-path", metavar="PATH", help="Make a socket here and listen at it.")
@click.option("--connect", is_flag=True, help="QEMU listens at PATH: connect, again and again.")
@click.option("--fd", type=int, help="Use this open socket, which listens or is connected.")
@click.option("--read-only", is_flag=True, help="Refuse writes.")
@click.option("--queues", type=int, default=1, show_default=True, help="How many queues.")
@click.option("--queue-size", type=int, default=256, show_default=True, help="Requests in each.")
@click.option("--migratable", is_flag=True, help="Lock the image only while a guest writes.")
@click.option(
    "--also",
    multiple=True,
    metavar="FEATURE[=BIT]",
    help="Offer a protocol feature on top, as gpa-addresses=21; docs/vhost-user.md lists them.",
)
@click.option("--print-capabilities", is_flag=True, help="Print one line of JSON, and exit.")
def block(
    *,
    image: Path | None,
    blk_file: Path | None,
    socket_path: str | None,
    connect: bool,
    fd: int | None,
    read_only: bool,
    queues: int,
    queue_size: int,
    migratable: bool,
    also: tuple[str, ...],
    print_capabilities: bool,
) -> None:
    """Serve a disk image over a vhost-user socket until SIGTERM or Ctrl-C.

    The options that attach a virtual machine to it are printed on standard error. Only this user
    may connect. One machine at a time is served, and the next waits.
    """
    if print_capabilities:
        click.echo(msgspec.json.encode(Capabilities("block", ["blk-file", "read-only"])))
        return
    path = one_of(image, blk_file, "one image: `paravirt serve block IMAGE`")
    where = one_of(socket_path, fd, "one of --socket-path and --fd")
    terms = parse_terms(also)
    if connect and socket_path is None:
        raise BadInput("give --socket-path with --connect: where QEMU listens")
    try:
        disk = Block(
            path,
            read_only=read_only,
            queues=queues,
            queue_size=queue_size,
            migratable=migratable,
        )
    except (ImageError, ValueError) as error:
        raise BadInput(str(error)) from None
    text = partial(attach_options, queues=queues, queue_size=queue_size, connect=connect)
    with disk:
        serve_until_told(disk, where, text, connect=connect, terms=terms)


def one_of(one: One | None, other: Other | None, wanted: str) -> One | Other:
    """Return the one that was given. Raises `BadInput` if it is none, or both."""
    given = [value for value in (one, other) if value is not None]
    if len(given) != 1:
        raise BadInput(f"give {wanted}")
    return given[0]
