"""Where QEMU is: the host's, or one that is fetched and runs from a folder of ours."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ._errors import GuestError
from ._packages import Report, ask, cache_folder, fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ()  # of use to this room only

PROGRAM = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"
INSTALLED = re.compile(r"^Inst (\S+)", re.MULTILINE)
"""What apt-get would install, besides what is there already."""
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
MODULES = ("usr/lib/x86_64-linux-gnu/qemu",)
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
"""Where Debian's packages have it."""


class Emulator(NamedTuple):
    """How QEMU is run."""

    command: tuple[str, ...]
    """The program, and where its firmware is."""
    environment: Mapping[str, str] | None
    """None for this process's own."""


async def find_emulator(report: Report) -> Emulator:
    """Return the host's QEMU; where there is none, one that is fetched with what it depends on.

    Raises `GuestError` if it cannot be had. Cancelled, it leaves nothing behind.
    """
    found = shutil.which(PROGRAM)
    if found is not None:
        return Emulator((found,), None)
    if not (cache_folder() / PACKAGE).is_dir() and shutil.which("apt-get") is None:
        raise GuestError(f"no {PROGRAM} here, and no apt-get to fetch it with: install QEMU")
    return unpacked(await fetch(PACKAGE, report, needed))


async def needed() -> list[str]:
    """Return the packages that QEMU takes and this host does not have, its own among them.

    Its firmware is fetched with it: without any it starts nothing.
    """
    ask_for = ("apt-get", "-q", "--simulate", "--no-install-recommends", "install", PACKAGE)
    return sorted({PACKAGE, *INSTALLED.findall(await ask(*ask_for))})


def unpacked(tree: Path, host: Path = Path("/")) -> Emulator:
    """Return the QEMU that was unpacked in a folder, with the host's files for what is not there.

    Raises `GuestError` if it has none.
    """
    program = tree / "usr" / "bin" / PROGRAM
    if not program.is_file():
        raise GuestError(f"there is no QEMU in {tree}: remove it, and try again")
    places = [word for path in _folders(FIRMWARE, tree, host) for word in ("-L", str(path))]
    before = os.environ.get("LD_LIBRARY_PATH")
    libraries = [*map(str, _folders(LIBRARIES, tree)), *([before] if before else [])]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    for modules in _folders(MODULES, tree, host)[:1]:  # QEMU itself looks beside the program only
        environment["QEMU_MODULE_DIR"] = str(modules)
    return Emulator((str(program), *places), environment)


def _folders(names: Iterable[str], *roots: Path) -> list[Path]:
    """Return those that are there, the first root's first."""
    return [path for root in roots for name in names if (path := root / name).is_dir()]
