"""Kernel modules, read from an unpacked package: no depmod and no installed kernel is needed."""

from __future__ import annotations

import lzma
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ()  # of use to this room only

DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
"""The entry of a module's .modinfo that names the modules it cannot be loaded without."""
SUFFIXES = (".ko", ".ko.xz")


def read_modules(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Give modules with all that they depend on, each after those it needs.

    A name that `folder` does not have is built into the kernel, or not there at all, which the
    guest finds out.
    """
    found = dict(_find(folder))
    seen: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in seen or name not in found:
            return
        seen.add(name)
        data = _read(found[name])
        for other in _depends(data):
            yield from visit(other)
        yield name, data

    for name in names:
        yield from visit(_plain(name))


def _find(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*.ko*"):
        if path.name.endswith(SUFFIXES):
            yield _plain(path.name.partition(".")[0]), path


def _plain(name: str) -> str:
    """Write a module's name as the kernel does: a file may have - where it has _."""
    return name.replace("-", "_")


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _depends(data: bytes) -> list[str]:
    match = DEPENDS.search(data)
    return [_plain(name) for name in match[1].decode().split(",") if name] if match else []
