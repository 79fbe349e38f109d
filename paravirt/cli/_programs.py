"""Programs of the system that commands use."""

from __future__ import annotations

import os
import shutil

ADMIN_FOLDERS = ("/usr/sbin", "/sbin")
"""Where Debian keeps programs like mke2fs, and looks only for root."""

MKE2FS_MISSING = "no mke2fs: apt-get install e2fsprogs (or the like), or name an image of yours"


def find_program(name: str) -> str | None:
    """Return the path of a program, also of an administrator's one; None if there is none."""
    folders = (os.environ.get("PATH", os.defpath), *ADMIN_FOLDERS)
    return shutil.which(name, path=os.pathsep.join(folders))
