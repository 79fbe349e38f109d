"""The guest's file system: an archive that the kernel unpacks into its memory."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ()  # of use to this room only

FOLDER, FILE, LINK, CHARACTER = 0o40000, 0o100000, 0o120000, 0o20000
END = "TRAILER!!!"


class Archive:
    """A cpio archive in the form that the kernel reads (newc)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._folders = {"."}

    def add(self, path: str, data: bytes, mode: int = 0o755) -> None:
        """Add a file, and the folders that it is in."""
        self._entry(path, data, FILE | mode)

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._entry(path, target.encode(), LINK | 0o777)

    def add_console(self) -> None:
        """Add the device that the kernel opens for its first process."""
        self._entry("dev/console", b"", CHARACTER | 0o600, (5, 1))

    def to_bytes(self) -> bytes:
        """Return the archive, which may be grown no further."""
        self._parts.append(_entry(END, b"", 0))
        return b"".join(self._parts)

    def _entry(self, path: str, data: bytes, mode: int, device: tuple[int, int] = (0, 0)) -> None:
        path = path.lstrip("/")
        for folder in _above(path):
            if folder not in self._folders:
                self._folders.add(folder)
                self._parts.append(_entry(folder, b"", FOLDER | 0o755))
        self._parts.append(_entry(path, data, mode, device))


def _above(path: str) -> Iterator[str]:
    """Give the folders that a path is in, the outermost first."""
    return (str(folder) for folder in reversed(PurePosixPath(path).parents))


def _entry(name: str, data: bytes, mode: int, device: tuple[int, int] = (0, 0)) -> bytes:
    title = name.encode() + b"\0"
    # inode, mode, user, group, links, time, size, the file system's device, the node's device,
    # the title's size, a checksum that newc does not have
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(title), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + title
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
