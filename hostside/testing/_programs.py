"""Programs of the host's for the guest."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import GuestError
from ._packages import Report, fetch

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ()  # of use to this room only

LIBRARY = re.compile(r"(?:=> |^\s*)(/\S+) \(0x", re.MULTILINE)
"""A line of ldd's: a name and where it is found, or the loader."""


async def find_busybox(report: Report) -> Path:
    """Return a busybox that needs no libraries: the host's, or one that is fetched."""
    found = shutil.which("busybox")
    if found is not None and not libraries(found):
        return Path(found)
    return await fetch("busybox-static", report) / "bin" / "busybox"


def with_libraries(programs: Iterable[str]) -> dict[str, Path]:
    """Return the files of programs and the libraries that they load, by their places in the guest.

    Raises `GuestError` for a program that is not there.
    """
    files: dict[str, Path] = {}
    for program in programs:
        found = shutil.which(program)
        if found is None:
            raise GuestError(f"no {program} here: install it, or leave it out of `programs`")
        files[f"/bin/{Path(found).name}"] = Path(found)
        files |= {library: Path(library) for library in libraries(found)}
    return files


def libraries(program: str) -> list[str]:
    """Return the paths of the libraries that a program of this machine's loads; none if static."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return LIBRARY.findall(done.stdout)
