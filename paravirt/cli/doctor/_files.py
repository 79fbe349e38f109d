"""What the file systems and programs for disk images can do."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .._programs import MKE2FS_MISSING, find_program
from ._check import Check


def file_checks() -> list[Check]:
    """Check the current folder, shared memory, and what makes the demo's image."""
    return [
        check_nowait("nowait-here", Path.cwd()),
        check_nowait("nowait-dev-shm", Path("/dev/shm")),  # noqa: S108
        check_mke2fs(),
    ]


def check_nowait(name: str, folder: Path) -> Check:
    """Say whether a read of a file there can be told to fail rather than wait for the disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"?")
            file.flush()
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        pass  # it did not wait, which is the point
    except OSError as error:
        if error.filename is None:
            return Check(name, False, "no RWF_NOWAIT: fine on tmpfs, else reads need a thread")
        return Check(name, False, f"cannot try in {folder} ({error.strerror}): run it elsewhere")
    return Check(name, True, "RWF_NOWAIT: cached bytes are read without a thread")


def check_mke2fs() -> Check:
    """Say whether there is a program to make an image for `paravirt demo`."""
    path = find_program("mke2fs")
    return Check("mke2fs", path is not None, path or MKE2FS_MISSING)
