"""Debian's packages, unpacked in a folder of ours: nothing is installed, and nobody is root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from ._errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ("Report",)

FOLDER = "PARAVIRT_VM"
"""The variable of the environment that names the folder for what is fetched."""
DOWNLOADED = re.compile(rb"dlstatus:[^:]*:([0-9.]+):")
"""What apt reports of a download: a percentage."""


class Report(Protocol):
    """Is told how far a download is."""

    def __call__(self, what: str, percent: float, /) -> object:
        """Note that so much of the package `what` has arrived; 100.0 once it is unpacked."""


def say_nothing(what: str, percent: float) -> None:
    """Be a `Report` that nobody wants."""
    del what, percent


def cache_folder() -> Path:
    """Return the folder for what is fetched: $PARAVIRT_VM, or one in the user's cache."""
    named = os.environ.get(FOLDER)
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "paravirt" / "vm"


async def fetch(
    package: str,
    report: Report = say_nothing,
    parts: Callable[[], Awaitable[Sequence[str]]] | None = None,
) -> Path:
    """Return the folder with an unpacked package, which is fetched if it is not there yet.

    `parts` names the packages to unpack in it, if it is not that one alone.

    Raises `GuestError` if it cannot be had. Cancelled, it leaves nothing behind. Of two processes
    that fetch the same one, both do, and the first one's is kept.
    """
    unpacked = cache_folder() / package
    if unpacked.is_dir():
        return unpacked
    try:
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(prefix=f".{package}-", dir=unpacked.parent)
    except OSError as error:
        raise GuestError(
            f"nothing can be kept in {unpacked.parent} ({error.strerror}): set {FOLDER} to a folder"
        ) from error
    with work as name:
        folder = Path(name)
        await _download(package, await parts() if parts else [package], folder, report)
        for file in os.listdir(folder):
            await ask("dpkg", "-x", str(folder / file), str(folder / "tree"))
        _keep(folder / "tree", unpacked)
    report(package, 100.0)
    return unpacked


async def ask(*command: str, check: bool = True) -> str:
    """Return what a program of Debian's printed.

    Raises `GuestError` if it is not there; with `check`, also if it failed.
    """
    run = partial(trio.run_process, capture_stdout=True, capture_stderr=True, check=False)
    done = await run(_command(command))
    if check and done.returncode:
        raise _failure(command, done.stderr)
    return done.stdout.decode(errors="replace")


def _keep(tree: Path, unpacked: Path) -> None:
    try:
        tree.rename(unpacked)
    except OSError:
        if not unpacked.is_dir():  # else another process was quicker
            raise


async def _download(what: str, packages: Sequence[str], folder: Path, report: Report) -> None:
    """Fetch packages into a folder, and tell how far `what` is."""
    command = ("apt-get", "-q", "-o", "APT::Status-Fd=1", "download", *packages)
    said = bytearray()
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                _command(command),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                check=False,
            )
        )
        report(what, 0.0)
        async for piece in process.stdout:
            said += piece
            for percent in DOWNLOADED.findall(piece):
                report(what, float(percent))
    if process.returncode:
        raise _failure(command, bytes(said))


def _command(command: tuple[str, ...]) -> list[str]:
    program = shutil.which(command[0])
    if program is None:
        raise GuestError(
            f"no {command[0]} here: what is missing comes from Debian's packages, and needs Debian"
        )
    return [program, *command[1:]]


def _failure(command: tuple[str, ...], said: bytes) -> GuestError:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.startswith("E:")]
    reason = " ".join(lines) or "it failed"
    return GuestError(f"`{' '.join(command)}`: {reason} (try `apt-get update` as root)")
