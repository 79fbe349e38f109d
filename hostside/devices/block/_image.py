"""The file or block device behind a disk, with all that may have to wait for it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from typing import TYPE_CHECKING

from paravirt.transport.fallocate import punch_hole, zero_range

from ._opening import (
    ImageError,
    lives_in_memory,
    lock_image,
    open_image,
    takes_nowait,
    unlock_image,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..._request import Request

_BLKDISCARD = 0x1277  # linux/fs.h; takes two 64-bit numbers, offset and size
_RANGE = struct.Struct("=QQ")
_ZEROES = bytes(1 << 20)  # as much as one plain write of zeroes carries
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL}


class Image:
    """An open disk image, locked against a second writer; a `migratable` one by `lock` only.

    Its methods block, and may run in any thread, all at the same time. Raises `ImageError` for an
    image that cannot be opened, is in use, or has a size that is no multiple of `block_size`.
    """

    read_flags: int | None
    """Flags for a read that never waits for a disk; None if there are none."""
    write_flags: int | None
    """The same for a write. Some file systems, as ext4, turn RWF_NOWAIT down only when asked to
    write; whoever finds that out sets this to None."""

    locked: bool
    """Whether it is locked now."""

    def __init__(
        self, path: Path, *, read_only: bool, block_size: int, migratable: bool = False
    ) -> None:
        self.path = path
        self.read_only = read_only
        self.migratable = migratable
        self.locked = not migratable
        self._block_size = block_size
        self._dirty = False
        self._sync_lock = threading.Lock()
        self._sync_error: OSError | None = None
        self.fd = open_image(path, read_only=read_only, lock=self.locked)
        try:
            self._is_block_device = stat.S_ISBLK(os.fstat(self.fd).st_mode)
            self.size = self.measure()
            """Bytes, when last measured."""
            self.read_flags, self.write_flags = _flags_in_line(self.fd)
        except BaseException:
            os.close(self.fd)
            raise

    def lock(self) -> None:
        """Lock it, if it is not locked. Raises `ImageError` if another program uses it."""
        if not self.locked:
            lock_image(self.path, self.fd, read_only=self.read_only)
            self.locked = True

    def hand_over(self) -> None:
        """Commit what was written and unlock it, for another backend to go on with.

        Raises `OSError`, and keeps it locked, if it could not be committed.
        """
        if self.locked:
            if self._dirty or self._sync_error:
                self.sync()
            unlock_image(self.fd)
            self.locked = False

    def measure(self) -> int:
        """Set `size` to the size that the image has now, and return it.

        Raises `ImageError`, with `size` as it was, if it is no multiple of the block size.
        """
        size = os.lseek(self.fd, 0, os.SEEK_END)  # `fstat` says 0 for a block device
        if over := size % self._block_size:
            whole = size - over + self._block_size
            raise ImageError(
                f"{self.path} has {size} bytes, no multiple of {self._block_size}: "
                f"fill it up: truncate -s {whole} {self.path}"
            )
        self.size = size
        return size

    def read(self, request: Request, position: int, size: int) -> None:
        """Move bytes into a request's reply, behind what is there. Raises `OSError`."""
        while size:
            try:
                count = request.write_from_file(self.fd, position, size)
            except InterruptedError:  # by a signal, on a network file system
                continue
            if not count:
                raise OSError(errno.EIO, "the image is shorter than it was")
            position, size = position + count, size - count

    def write(self, request: Request, position: int, size: int) -> None:
        """Move the next bytes of a request to the image. Raises `OSError`, perhaps half-way."""
        while size:
            try:
                count = request.read_to_file(self.fd, position, size)
            except InterruptedError:
                continue
            self.wrote()
            if not count:
                raise OSError(errno.EIO, "the image takes no more bytes")
            position, size = position + count, size - count

    def wrote(self) -> None:
        """Note that there is something to commit; for whoever writes by itself, after it did."""
        self._dirty = True

    def discard(self, offset: int, size: int) -> None:
        """Give a range back, if the file system can; what it reads as is open. Raises `OSError`."""
        _try(self._give_back if self._is_block_device else self._punch, offset, size)

    def zero(self, offset: int, size: int, *, unmap: bool) -> None:
        """Make a range read as zeroes, its space given back if `unmap` and if that can be done.

        Raises `OSError`; a part of the range may be zeroes then.
        """
        end = offset + size
        if (unmap and _try(self._punch, offset, size)) or _try(self._zero, offset, size):
            offset = end
        self.wrote()
        while offset < end:
            offset += os.pwrite(self.fd, _ZEROES[: end - offset], offset)
            self.wrote()

    def sync(self) -> None:
        """Commit what was written before this call to the storage.

        Raises `OSError`, and from then on every time: the kernel forgets the pages that it failed
        to write, so that a later success would be a lie about them. Calls take turns, since the
        kernel tells only one of them.
        """
        with self._sync_lock:
            if self._sync_error is not None:
                raise OSError(*self._sync_error.args)
            self._dirty = False
            try:
                os.fdatasync(self.fd)
            except OSError as error:
                self._sync_error = error
                raise

    def close(self) -> None:
        """Commit what is not committed yet, close and unlock; idempotent.

        Raises `OSError` if it could not be committed. The image is closed all the same.
        """
        if self.fd < 0:
            return
        try:
            if self._dirty or self._sync_error:
                self.sync()
        finally:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def _punch(self, offset: int, size: int) -> None:
        punch_hole(self.fd, offset, size)

    def _zero(self, offset: int, size: int) -> None:
        zero_range(self.fd, offset, size)

    def _give_back(self, offset: int, size: int) -> None:
        fcntl.ioctl(self.fd, _BLKDISCARD, _RANGE.pack(offset, size))


def _try(change: Callable[[int, int], None], offset: int, size: int) -> bool:
    """Make the change; False if the file system or the device cannot."""
    try:
        change(offset, size)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _flags_in_line(fd: int) -> tuple[int | None, int | None]:
    """Return the flags for reads and for writes that never wait for a disk."""
    in_memory = 0 if lives_in_memory(fd) else None
    nowait = os.RWF_NOWAIT if takes_nowait(fd) else None
    return (
        in_memory if nowait is None else nowait,
        nowait if in_memory is None else in_memory,  # a write to memory need not be tried
    )
