"""Debian's kernels, as their packages have them."""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import trio

from ._errors import GuestError
from ._image import unwrapped
from ._packages import Report, ask, cache_folder, fetch, say_nothing

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("Kernel", "fetch_kernel")

DEPENDS = re.compile(r"Depends: (linux-image-\S+)")
PREFIX = "linux-image-"
MACHINE = "x86_64"
"""The only one whose guests are tried."""


class Kernel(NamedTuple):
    """A kernel and its modules."""

    version: str
    """As `uname -r` says in the guest."""
    image: Path
    """What QEMU boots."""
    modules: Path
    """The folder with its modules."""


async def fetch_kernel(name: str | None = None, report: Report = say_nothing) -> Kernel:
    """Return one of Debian's kernels, fetched with `apt-get download` if it is not there yet.

    `name` is a series of the cloud kernel, as "6.1" or "6.12", or the name of a package, as
    "linux-image-amd64"; None is the release's own cloud kernel. What was fetched before is used
    again: remove it from the folder, $PARAVIRT_VM or one in the user's cache, to get a newer one.

    Raises `GuestError` if it cannot be had. Cancelled, it leaves nothing behind.
    """
    check_machine()
    chosen = cache_folder() / f"kernel-{name or 'default'}"
    if chosen.is_dir():
        return await trio.to_thread.run_sync(_unpacked, chosen)
    unpacked = await fetch(await _resolve(name), report)
    _link(chosen, unpacked)
    return await trio.to_thread.run_sync(_unpacked, unpacked)


def check_machine() -> None:
    """Raise `GuestError` on a machine that no guest is made for."""
    if platform.machine() != MACHINE:
        raise GuestError(f"guests are made for {MACHINE} only, and this is {platform.machine()}")


def _link(path: Path, target: Path) -> None:
    """Remember which package a name stands for; another process may do the same meanwhile."""
    path.unlink(missing_ok=True)  # of a package that was removed
    with suppress(FileExistsError):
        path.symlink_to(target.name)


def _candidates(name: str | None) -> list[str]:
    """Return the packages that may have a kernel, or depend on the one that has it."""
    if name is None:
        return ["linux-image-cloud-amd64"]
    if name.startswith(PREFIX):
        return [name]
    return ["linux-image-cloud-amd64", f"{PREFIX}{name}-cloud-amd64"]


async def _resolve(name: str | None) -> str:
    """Return the package that has a kernel: the names above are those of empty ones."""
    series = f"{PREFIX}{name}." if name and not name.startswith(PREFIX) else PREFIX
    for package in _candidates(name):
        found = DEPENDS.findall(await ask("apt-cache", "depends", package, check=False))
        if package == name and not found:
            return package
        for version in found:
            if version.startswith(series):
                return str(version)
    raise GuestError(
        f"Debian's {name or 'cloud'} kernel is not among the packages here: needs its lists "
        "(`apt-get update` as root), and for 6.12 on Debian 12 bookworm-security"
    )


def _unpacked(folder: Path) -> Kernel:
    images = sorted(folder.glob("boot/vmlinuz-*"))
    if not images:
        raise GuestError(f"there is no kernel in {folder.resolve()}: remove it, and try again")
    version = images[0].name.removeprefix("vmlinuz-")
    return Kernel(version, unwrapped(images[0]), folder / "lib" / "modules" / version)
