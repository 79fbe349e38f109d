"""`paravirt run`: a bare-metal payload with a device, on KVM.

The folder is not called `run`, since that is the function by which `paravirt.cli` is entered.
"""

from __future__ import annotations

import platform
from pathlib import Path

import click

from paravirt.doorbells.kvm import default_kind

from .._errors import complain
from .._output import json_option, print_json
from ._boot import DOORBELLS, Setup, boot

ELF = click.Path(path_type=Path)


@click.command(
    epilog="""
    \b
    Examples:
      paravirt run guest.elf
      paravirt run guest.elf --doorbell mmio-ioeventfd --disk disk.img
      paravirt run guest.elf --ring 0 --argument 3 --argument 0x10 --json
      paravirt run guest.elf --attest --readonly-text
    """
)
@click.argument("elf", type=ELF)
@click.option(
    "--doorbell",
    type=click.Choice(sorted(DOORBELLS)),
    metavar="NAME",
    default=default_kind(platform.machine()).name,
    show_default=True,
    help="How the guest kicks; `paravirt doctor` says which this host has.",
)
@click.option("--disk", type=ELF, help="Give it this image as a disk, and not an echo device.")
@click.option("--ring", type=click.Choice(["0", "3"]), default="3", show_default=True)
@click.option("--memory", type=int, default=64, show_default=True, help="MiB.")
@click.option("--vcpus", type=int, default=1, show_default=True, help="How many vCPUs.")
@click.option(
    "--argument", "arguments", multiple=True, help="A number for the boot page; up to 16."
)
@click.option("--stall", type=float, help="End a guest with no exit for so many seconds.")
@click.option("--attest", is_flag=True, help="Fail if the guest's instructions have changed.")
@click.option("--readonly-text", is_flag=True, help="Let nothing in the guest write to them.")
@json_option
def run(
    *,
    elf: Path,
    doorbell: str,
    disk: Path | None,
    ring: str,
    memory: int,
    vcpus: int,
    arguments: tuple[str, ...],
    stall: float | None,
    attest: bool,
    readonly_text: bool,
    as_json: bool,
) -> int:
    """Boot the program ELF on KVM with a virtio-mmio device, until it ends or Ctrl-C.

    What the guest prints comes on standard output. The exit code is 0 if the guest ended with 0,
    and 1 if it ended otherwise or failed. How a guest is entered, and where it finds its device, is
    in doorbells/guest/doorbell.h.
    """
    setup = Setup(
        elf=elf,
        doorbell=DOORBELLS[doorbell],
        disk=disk,
        ring=int(ring),
        memory_size=memory << 20,
        vcpus=vcpus,
        arguments=arguments,
        stall=stall,
        attest=attest,
        readonly_text=readonly_text,
    )
    document = boot(setup, quiet=as_json)
    if as_json:
        print_json(document)
    elif document.code:
        complain(f"the guest ended with code {document.code}")
    return int(document.code != 0)
