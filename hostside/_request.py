"""What a driver asks of a device: bytes in, bytes out, and an id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

if TYPE_CHECKING:
    from ._queue import DeviceQueue


READ_MOST = 4 << 20
"""Bytes that a `read` without a size may allocate. A guest can claim 4 GiB in each request, of the
same page again and again; the longest that Linux sends by itself are a disk's, of 4 MiB."""


class RequestError(Exception):
    """The request cannot be done: `Device.fail` tells the guest `status`, a code of its type."""

    def __init__(self, status: int, text: str = "") -> None:
        self.status = status
        super().__init__(text or f"status {status}")


class Request(msgspec.Struct, gc=False, eq=False):
    """One request: `readable` bytes from the driver, room for `writable` bytes in reply.

    It has no address and no pointer in it, since its driver may sit on another machine. Reading
    goes on where the last `read` ended, writing where the last `write` did. It is over with
    `reply`, or when its handler returns. Sizes are the guest's choice, so nothing here raises
    because of them: what does not fit is cut, and counted.

    A request that outlived its queue (the guest reset it) reads as empty, and takes writes and the
    reply without effect. All methods but the two for files belong to the server's thread. Each
    raises `MemoryGone` if the guest's memory was truncated.
    """

    _queue: DeviceQueue
    id: int
    """Names the request within its queue; not used again before the next reset."""
    _sizes: int
    _head: bytes = b""
    replied: bool = False
    """Whether the reply was given; nobody asks once the handler returned."""
    _taken: int = 0
    _end: int = 0

    @property
    def queue(self) -> int:
        """The index of its queue."""
        return self._queue.index

    @property
    def readable(self) -> int:
        """Bytes that the driver sent."""
        return self._sizes >> 32

    @property
    def writable(self) -> int:
        """Bytes that the reply can have."""
        return self._sizes & 0xFFFFFFFF

    @property
    def open(self) -> bool:
        """Whether the reply is still to come."""
        return not self.replied and self._queue.ring.holds(self.id)

    @property
    def written(self) -> int:
        """The used length so far: where the last byte written ends; 0 once the guest has it."""
        return self._queue.ring.written(self.id)

    @trio.lowlevel.enable_ki_protection
    def read(self, size: int | None = None) -> bytes:
        """Take the next `size` bytes, or all that are left; short, at last empty, at the end.

        Without a size no more than `READ_MOST` at once.
        """
        left = (self._sizes >> 32) - self._taken
        if size is not None and size == len(self._head) and not self._taken and size <= left:
            self._taken = size
            return self._head
        size = min(READ_MOST if size is None else size, left)
        if size <= 0:
            return b""
        data = self._queue.ring.read(self.id, self._taken, size)
        self._taken += len(data)
        return data

    @trio.lowlevel.enable_ki_protection
    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append to the reply; returns how many bytes fitted. Raises `RuntimeError` after it."""
        count = self.write_at(self._end, data)
        self._end += count
        return count

    @trio.lowlevel.enable_ki_protection
    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Place bytes in the reply; returns how many fitted.

        Bytes before `offset` that were never written stay the guest's own. Raises `RuntimeError`
        after the reply.
        """
        self._check_open()
        size = len(data)
        room = max(0, (self._sizes & 0xFFFFFFFF) - offset)
        if size > room:
            self._queue.count_cut()
            data = memoryview(data)[:room]
        if not data:
            return 0
        count = self._queue.ring.write(self.id, offset, data)
        if not count:
            self._check_held()
        return count

    @trio.lowlevel.enable_ki_protection
    def write_from_file(
        self, fd: int, position: int, size: int, flags: int = 0, last: bytes = b""
    ) -> int:
        """Append up to `size` bytes of a file to the reply, without a copy if the guest is here.

        Once all of them are there, `last` is placed at the very end of the reply. Returns the bytes
        moved: short at the end of the file or of the room. `flags` are those of `os.preadv`. Raises
        `OSError` as that does; `BlockingIOError` with `os.RWF_NOWAIT` if the bytes would have to be
        waited for. May run in a worker thread that is waited for: a reset is not done as long as
        guest memory is written.
        """
        self._check_open()
        size = min(size, (self._sizes & 0xFFFFFFFF) - self._end)
        ring = self._queue.ring
        count = ring.read_file(self.id, self._end, fd, position, size, flags, last)
        self._end += count
        return count

    @trio.lowlevel.enable_ki_protection
    def read_to_file(
        self, fd: int, position: int, size: int, flags: int = 0, last: bytes = b""
    ) -> int:
        """Take up to `size` bytes and write them to a file, as `write_from_file` the other way."""
        size = min(size, (self._sizes >> 32) - self._taken)
        ring = self._queue.ring
        count = ring.write_file(self.id, self._taken, fd, position, size, flags, last)
        self._taken += count
        return count

    @trio.lowlevel.enable_ki_protection
    def reply(self, data: bytes | bytearray | memoryview = b"") -> int:
        """Append `data` and complete the request; returns how many bytes fitted.

        Raises `RuntimeError` the second time.
        """
        self._check_open()
        self._check_held()
        count = self.write(data) if data else 0
        self.replied = True
        self._queue.complete(self.id)
        return count

    def _check_open(self) -> None:
        if self.replied:
            raise RuntimeError("this request was replied to already")

    def _check_held(self) -> None:
        if not self._queue.ring.holds(self.id):
            raise RuntimeError("this request is over: its handler returned")
