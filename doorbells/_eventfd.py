"""The doorbell between threads and processes: what ioeventfd, irqfd and vhost-user are made of."""

from __future__ import annotations

import os
import select
import warnings
from typing import ClassVar, Self

import trio

from ._seated import Seated

_FLAGS = os.EFD_CLOEXEC | os.EFD_NONBLOCK


class EventFd(Seated):
    """A doorbell made of a Linux eventfd; needs Linux 5.8.

    The open description may be shared with a peer, who can set or clear O_NONBLOCK and take the
    count at any time. So a read asks for RWF_NOWAIT, which no peer can undo, and a wait whose
    count was taken returns as a spurious one. A write has no such flag: `ring` sets O_NONBLOCK
    first. Only a peer that fills the counter and then clears the flag between those two calls can
    still block it.
    """

    name: ClassVar[str] = "eventfd"
    _fd: int = -1

    def __init__(self, *, _fd: int | None = None) -> None:
        super().__init__()
        self._count = [bytearray(8)]
        self._end: int | None = None
        self._fd = os.eventfd(0, _FLAGS) if _fd is None else _fd

    @classmethod
    def adopt(cls, fd: int) -> Self:
        """Take ownership of a foreign eventfd, which may be shared with a peer.

        Raises ValueError if it is no eventfd, OSError if it is not open; then it stays the
        caller's.
        """
        if os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:[eventfd]":
            raise ValueError(f"descriptor {fd} is no eventfd")
        os.set_inheritable(fd, False)
        return cls(_fd=fd)

    def ring(self) -> None:
        """Wake the waiter, or let its next wait return at once; never blocks, from any thread."""
        self._enter(rings=1)
        try:
            os.set_blocking(self._fd, False)
            os.eventfd_write(self._fd, 1)
        except BlockingIOError:
            pass  # the counter is full: it has been rung
        finally:
            self._leave()

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> None:
        """Wait for a ring; see `Doorbell.wait`."""
        self._sit_in_trio()
        try:
            await trio.lowlevel.wait_readable(self._fd)
            self._take()
        finally:
            self._rise()

    def wait_blocking(self, timeout: float | None = None) -> bool:
        """Wait in a thread without trio: True if (perhaps) rung, False when time is up."""
        self._sit()
        try:
            self._enter()
            try:
                return self._poll(timeout)
            finally:
                self._leave()
        finally:
            self._rise()

    def _poll(self, timeout: float | None) -> bool:
        # The end has a descriptor of its own: a peer could take the count of a ring that tells it.
        end = os.eventfd(0, _FLAGS)
        try:
            with self._lock:
                self._check_open()
                self._end = end
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.register(end, select.POLLIN)
            ready = poll.poll(None if timeout is None else max(0.0, timeout) * 1000)
            if ready:
                self._take()
            return bool(ready)
        finally:
            with self._lock:
                self._end = None
            os.close(end)

    def fileno(self) -> int:
        """Give the descriptor that a ring makes readable; see `Doorbell.fileno`."""
        self._check_open()
        return self._fd

    def describe(self) -> str:
        """Say which doorbell this is, with its descriptor while it has one."""
        text = super().describe()
        return f"{text}, descriptor {self._fd}" if self._fd >= 0 else text

    def _take(self) -> None:
        self._check_open()
        self._wakes += 1
        try:  # contextlib.suppress would add 3 % to a wait
            os.preadv(self._fd, self._count, -1, os.RWF_NOWAIT)
        except BlockingIOError:
            pass  # a peer took it

    def _wake_task(self) -> None:
        trio.lowlevel.notify_closing(self._fd)

    def _wake_thread(self) -> None:
        if self._end is not None:
            os.eventfd_write(self._end, 1)

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            message = f"doorbell not closed: {self.describe()}"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
            self.close()
