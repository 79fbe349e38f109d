"""How an image is opened: what may be wrong with it, and what its file system can do."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

__all__ = ("ImageError",)


class ImageError(ValueError):
    """An image cannot be used; one line that says why and what to do."""


def open_image(path: Path, *, read_only: bool, lock: bool) -> int:
    """Open, and perhaps lock, a file or a block device; returns its descriptor.

    With `lock` a block device that is mounted is in use too. Raises `ImageError`.
    """
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    try:
        mode = path.stat().st_mode
        _check_kind(path, mode)
        if stat.S_ISBLK(mode) and lock and not read_only:
            flags |= os.O_EXCL  # without O_CREAT: fails if the kernel itself uses the device
        fd = os.open(path, flags)
    except OSError as error:
        raise ImageError(_why_not(path, error, read_only=read_only)) from error
    try:
        if lock:
            lock_image(path, fd, read_only=read_only)
    except ImageError:
        os.close(fd)
        raise
    return fd


def lock_image(path: Path, fd: int, *, read_only: bool) -> None:
    """Lock an open image, shared for `read_only` and exclusively otherwise. Raises `ImageError`."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        raise ImageError(_why_not(path, error, read_only=read_only)) from error


def unlock_image(fd: int) -> None:
    """Unlock an open image."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def _check_kind(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ImageError(f"{path} is a directory: name the image in it")
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise ImageError(f"{path} is neither a file nor a block device: name one that is")


def _why_not(path: Path, error: OSError, *, read_only: bool) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"{path} does not exist: check the name, or make it: truncate -s 64M {path}"
        case errno.EACCES | errno.EPERM:
            wanted = "read" if read_only else "read and written"
            return f"{path} may not be {wanted} by this user: change its permissions"
        case errno.EROFS:
            return f"{path} is on a read-only file system: open it read-only"
        case errno.EBUSY | errno.EWOULDBLOCK:
            return f"{path} is in use: stop the other program, unmount it, or take a copy"
        case _:
            return f"{path} cannot be opened ({error.strerror}): check the storage it is on"


def lives_in_memory(fd: int, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Say whether a file is on tmpfs, so that no read of it waits for a disk."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:  # proc(5): ID, parent, device, ..., "-", type, source, options
        left, _, right = line.partition(" - ")
        if left.split(" ")[2:3] == [number]:
            return right.split(" ")[0] in {"tmpfs", "ramfs"}
    return False


def takes_nowait(fd: int) -> bool:
    """Say whether a read can be told to fail rather than wait (RWF_NOWAIT)."""
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
    return True
