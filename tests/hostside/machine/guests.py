"""Guests for a machine: some lines of assembly each, assembled when a test wants them."""

from __future__ import annotations

import hashlib
import io
import subprocess
from importlib import resources
from typing import TYPE_CHECKING, Any

from elftools.elf.elffile import ELFFile

from paravirt.hostside.machine._kvm import lib
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from paravirt.hostside.machine import Machine

_FREESTANDING = (
    *("-ffreestanding", "-fno-pic", "-mno-red-zone", "-mgeneral-regs-only"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none"),
)
_HEAD = """
    .globl _start
_start:
"""
_PLACES = ("CONSOLE", "EXIT", "FAULT", "BLOCK", "BELL_PAGE", "BELL_PORT", "BOOT")
EXIT = """
    mov $EXIT, %edx
    movl ${}, (%rdx)
"""
"""The last lines of a guest that ends with a code."""


def assemble(folder: Path, source: str, script: str = "") -> Path:
    """Return a payload that starts with the first line; places of the layout have their names.

    Without a linker script it is one segment, text and data.
    """
    text = _HEAD + source
    elf = folder / f"{hashlib.sha256((text + script).encode()).hexdigest()[:16]}.elf"
    if not elf.exists():
        elf.with_suffix(".S").write_text(text + "\n")
        elf.with_suffix(".ld").write_text(script)
        names = [f"-D{name}={getattr(lib, 'PV_' + name):#x}" for name in _PLACES]
        how = ["-e", "_start", "-T", str(elf.with_suffix(".ld"))] if script else _one_segment()
        _build(elf.with_suffix(".S"), elf, *names, link=how)
    return elf


def build_c(folder: Path, source: Path, place: int = lib.PV_PAYLOAD) -> Path:
    """Return a payload made of one C file, with its start at `_start`."""
    elf = folder / f"{source.stem}.elf"
    header = ("-I", str(resources.files("paravirt.doorbells") / "guest"))
    checked = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
    _build(source, elf, *checked, *_FREESTANDING, *header, link=_one_segment(place))
    return elf


def load_beside(machine: Machine, vcpu: int, elf: Path) -> None:
    """Have one vCPU run another program than the one that was loaded."""
    image: Any = ELFFile(io.BytesIO(elf.read_bytes()))
    for segment in image.iter_segments():
        machine.memory.write(segment["p_paddr"], segment.data())
    machine.vcpus[vcpu].reset(entry=image["e_entry"], ring=machine.ring, boot=lib.PV_BOOT)


def _one_segment(place: int = lib.PV_PAYLOAD) -> Sequence[str]:
    return ("-N", "--no-warn-rwx-segments", f"-Ttext={place:#x}")


def _build(source: Path, elf: Path, *options: str, link: Sequence[str]) -> None:
    gcc, ld = need("gcc", "gcc"), need("ld", "binutils")
    linked = elf.with_suffix(".o")
    subprocess.run([gcc, "-c", *options, source, "-o", linked], check=True)
    subprocess.run([ld, *link, linked, "-o", elf], check=True)


def ends(code: int) -> str:
    """Return the lines by which a guest ends with a code."""
    return EXIT.format(code)
