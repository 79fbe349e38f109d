"""The image that is served, the user's own or one made here, and the copy for the writes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from .._errors import BadInput
from .._programs import MKE2FS_MISSING, find_program
from ._size import binary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._progress import Bar
    from ._stop import Stop

PIECE = 4 << 20
"""Bytes between two looks at Ctrl-C."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_BLOCK = 4096
_FILES_SHARE = 3  # of 8 parts of the image: the file system needs room for itself
_BYTES_PER_FILE = 1 << 14  # of the image: an ext4 file system this small has an inode for each
_LEFT_OUT = {"__pycache__", "site-packages", "test", "tests"}


def make_image(folder: Path, size: int) -> tuple[Path, int]:
    """Make an ext4 image with files of Python's library in it; returns its path and their number.

    Raises `BadInput` if it cannot be made.
    """
    program = find_program("mke2fs")
    if program is None:
        raise BadInput(MKE2FS_MISSING)
    tree = folder / "files"
    image = folder / "disk.img"
    try:
        count = _gather(tree, size)
        with image.open("xb") as file:
            file.truncate(size)
    except OSError as error:
        raise no_room(folder, size, error) from error
    options = ("-q", "-F", "-t", "ext4", "-L", "paravirt")
    done = subprocess.run(
        [program, *options, "-d", str(tree), str(image)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    shutil.rmtree(tree)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise BadInput(
            f"mke2fs made no image of {binary(size)} ({said}): make room in {folder.parent}, or "
            "try another --size"
        )
    return image, count


def _gather(tree: Path, size: int) -> int:
    """Copy files of Python's library into a folder, as many as an image of a size can hold."""
    library = Path(sysconfig.get_path("stdlib"))
    room, count = size * _FILES_SHARE // 8, 0
    most = size // _BYTES_PER_FILE
    tree.mkdir()
    for path in _library_files(library):
        room -= _BLOCK + path.stat().st_size // _BLOCK * _BLOCK
        if room < 0 or count == most:
            break
        copy = tree / path.relative_to(library)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        count += 1
    return count


def _library_files(library: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(library):
        names[:] = sorted(set(names) - _LEFT_OUT)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def check_room(image: Path, size: int, folder: Path, extra: int) -> None:
    """Raise `BadInput` if a folder has no room for a copy of an image's data, and `extra`."""
    status = image.stat()
    held = size if stat.S_ISBLK(status.st_mode) else min(size, status.st_blocks * 512)
    needed = held + extra
    if needed > shutil.disk_usage(folder).free:
        raise no_room(folder, needed)


def no_room(folder: Path, needed: int, error: OSError | None = None) -> BadInput:
    """Make the error for a folder that takes no more."""
    if error is not None and error.errno not in FULL:
        return BadInput(f"cannot write in {folder}: {error.strerror}; set TMPDIR to another folder")
    return BadInput(
        f"no room in {folder.parent} for {binary(needed)}: make room there, or set TMPDIR to a "
        "folder with more"
    )


def copy_image(image: Path, scratch: Path, *, bar: Bar, stop: Stop) -> str:
    """Copy an image, leaving out what is zero; returns the SHA-256 of it.

    Raises `BadInput` if there is no room, or the image cannot be read, and what `stop.check` does.
    """
    digest = hashlib.sha256()
    with image.open("rb", buffering=0) as source, scratch.open("xb", buffering=0) as copy:
        position = 0
        while piece := _read_piece(image, source.fileno(), position):
            stop.check()
            digest.update(piece)
            try:
                if piece.count(0) != len(piece):
                    _write_all(copy.fileno(), piece, position)
                position += len(piece)
                copy.truncate(position)
            except OSError as error:
                raise no_room(scratch.parent, position, error) from error
            bar.advance(len(piece))
    return digest.hexdigest()


def _read_piece(image: Path, fd: int, position: int) -> bytes:
    try:
        return os.pread(fd, PIECE, position)
    except OSError as error:
        raise BadInput(
            f"{image} cannot be read at {position} ({error.strerror}): check its storage"
        ) from error


def _write_all(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, position)
        view, position = view[count:], position + count
