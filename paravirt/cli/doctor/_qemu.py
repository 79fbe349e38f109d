"""The QEMU programs on the path."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from ._check import Check

STORAGE_DAEMON = "qemu-storage-daemon"
SECONDS = 10  # a program that takes longer to say its version is broken


def qemu_checks(path: str | None = None) -> list[Check]:
    """Check the emulators of all machines that are on the path, and the storage daemon."""
    folders = os.get_exec_path() if path is None else path.split(os.pathsep)
    wanted = f"qemu-system-{platform.machine()}"
    found = find_programs(folders)
    names = sorted({wanted, STORAGE_DAEMON, *found})
    return [check_program(name, found.get(name)) for name in names]


def find_programs(folders: list[str]) -> dict[str, Path]:
    """Return the QEMU programs in some folders by name, the first of each."""
    found: dict[str, Path] = {}
    for folder in map(Path, folders):
        for path in (*folder.glob("qemu-system-*"), folder / STORAGE_DAEMON):
            if os.access(path, os.X_OK) and path.is_file():
                found.setdefault(path.name, path)
    return found


def check_program(name: str, path: Path | None) -> Check:
    """Check one program by asking for its version."""
    if path is None:
        package = "qemu-system-common" if name == STORAGE_DAEMON else "qemu-system"
        return Check(name, False, f"not on the PATH: apt-get install {package}")
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check(name, False, f"{path} does not say its version: install it again ({error})")
    version = re.search(r"version (\S+)", done.stdout)
    return Check(name, True, f"{version[1] if version else 'unknown version'}, {path}")
