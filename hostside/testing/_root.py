"""What is in the guest's file system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ._initramfs import Archive
from ._modules import read_modules
from ._setup import INIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._kernel import Kernel

__all__ = ()  # of use to this room only

MODULES = ("virtio_pci", "virtio_mmio", "virtio_console")
"""What the guest's first process needs to be spoken to."""


def root_archive(
    kernel: Kernel, busybox: Path, modules: Iterable[str], files: Mapping[str, Path | bytes]
) -> bytes:
    """Return the archive that the kernel unpacks; raises `OSError` for a file that is not there."""
    archive = Archive()
    archive.add_console()
    archive.add("/bin/busybox", busybox.read_bytes())
    archive.add_link("/bin/sh", "busybox")
    archive.add("/init", INIT.encode())
    order: list[str] = []
    for name, data in read_modules(kernel.modules, [*MODULES, *modules]):
        archive.add(f"/modules/{name}.ko", data)
        order.append(f"{name}.ko")
    archive.add("/modules/order", " ".join(order).encode())
    for path, content in files.items():
        archive.add(path, content.read_bytes() if isinstance(content, Path) else content)
    return archive.to_bytes()
