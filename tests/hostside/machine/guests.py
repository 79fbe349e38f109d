"""Guests for a machine: some lines of assembly each, assembled when a test wants them."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

from paravirt.hostside.machine._kvm import lib
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FREESTANDING = (
    *("-ffreestanding", "-fno-pic", "-mno-red-zone", "-mgeneral-regs-only"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none"),
)
_ONE_SEGMENT = ("-N", "--no-warn-rwx-segments", f"-Ttext={lib.PV_PAYLOAD:#x}")
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
        how = ["-e", "_start", "-T", str(elf.with_suffix(".ld"))] if script else _ONE_SEGMENT
        _build(elf.with_suffix(".S"), elf, *names, link=how)
    return elf


def build_c(folder: Path, source: Path) -> Path:
    """Return a payload made of one C file, whose start is in `.text.start`."""
    elf = folder / f"{source.stem}.elf"
    _build(source, elf, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", *_FREESTANDING)
    return elf


def _build(source: Path, elf: Path, *options: str, link: Sequence[str] = _ONE_SEGMENT) -> None:
    gcc, ld = need("gcc", "gcc"), need("ld", "binutils")
    linked = elf.with_suffix(".o")
    subprocess.run([gcc, "-c", *options, source, "-o", linked], check=True)
    subprocess.run([ld, *link, linked, "-o", elf], check=True)


def ends(code: int) -> str:
    """Return the lines by which a guest ends with a code."""
    return EXIT.format(code)
