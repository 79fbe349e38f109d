"""`paravirt demo`: a real disk image, served through a virtio ring with each doorbell."""

from __future__ import annotations

from pathlib import Path

import click

from paravirt.doorbells import KINDS, probe

from .._errors import BadInput
from .._output import json_option
from ._size import read_size

DEFAULT_SIZE = 64 << 20
NAMES = [kind.name for kind in KINDS]


@click.command(
    epilog="""
    \b
    Examples:
      paravirt demo
      paravirt demo --size 1G --doorbell eventfd --doorbell polling
      paravirt demo disk.img
      paravirt demo --guest
      paravirt demo --json | python3 -m json.tool
    """
)
@click.argument("image", required=False, type=click.Path(path_type=Path))
@click.option(
    "--doorbell",
    "names",
    multiple=True,
    metavar="KIND",
    type=click.Choice(NAMES),
    help=f"Use this doorbell ({', '.join(NAMES)}); may be given several times. Default: all.",
)
@click.option(
    "--size",
    callback=read_size,
    metavar="BYTES",
    help="Size of the image to make, as 64M (the default) or 1G; without IMAGE.",
)
@click.option(
    "--guest",
    is_flag=True,
    help="Then start Linux under QEMU, and have it read, mount and write the disk too.",
)
@json_option
def demo(
    image: Path | None, names: tuple[str, ...], size: int | None, *, guest: bool, as_json: bool
) -> int:
    """Serve a disk image through a ring, with each doorbell in turn.

    With each, everything is read through a driver and compared with the file by SHA-256, then a
    pattern is written, flushed, and looked for in the file itself.

    IMAGE is any file or block device. It is only read: a scratch copy, in the folder for temporary
    files (TMPDIR), takes the writes. Without IMAGE an ext4 image with real files is made.

    With --guest, Debian's kernel, and QEMU and a busybox if there is none, are fetched the first
    time by `apt-get download`, into ~/.cache/paravirt/vm or the folder that PARAVIRT_VM names.
    """
    from ._show import show  # needs the C core, which `doctor` does without

    if image is not None and size is not None:
        raise BadInput("--size is for the image that demo makes: leave out --size, or the image")
    chosen = [kind for kind in KINDS if kind.name in (names or NAMES)]
    refused = {found.name: found.reason for found in probe() if not found.available}
    for name in names:
        if name in refused:
            raise BadInput(f"no {name} doorbell here: {refused[name]}")
    kinds = [kind for kind in chosen if kind.name not in refused]
    return show(image, size or DEFAULT_SIZE, kinds, guest=guest, as_json=as_json)
