"""Doorbells whose descriptors a frontend brings, takes away and exchanges at any time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, NoReturn

import trio

from paravirt.doorbells import Doorbell, DoorbellStatistics, EventFd
from paravirt.transport import PeerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.transport.vhost_user import Descriptors

__all__ = ()  # of use to this room only


def adopt(fds: Descriptors, kind: type[EventFd] = EventFd) -> EventFd | None:
    """Make a doorbell of the descriptor that came, None if none did. Raises `PeerError`."""
    if not len(fds):
        return None
    fd = fds.take()
    try:
        return kind.adopt(fd)
    except ValueError as error:
        os.close(fd)
        raise PeerError(str(error)) from None
    except BaseException:
        os.close(fd)
        raise


class CallBell(Doorbell):
    """What the device rings to call the driver: the newest descriptor.

    A frontend that said that there is none looks at the queue by itself; to one that said nothing
    of it the call may be a message. It exchanges descriptors while the queue runs, to mask and
    unmask an interrupt.
    """

    name: ClassVar[str] = "call"

    def __init__(self) -> None:
        self.otherwise: Callable[[], None] | None = None
        """What a ring does as long as `replace` was never called."""
        self._target: EventFd | None = None
        self._rings = 0
        self._closed = False

    def replace(self, target: EventFd | None) -> None:
        """Ring another one from now on, or none; the one before is closed."""
        self.otherwise = None
        old, self._target = self._target, target
        if old is not None:
            old.close()

    def ring(self) -> None:
        """Call the driver, if it wants to be called."""
        self._rings += 1
        if self._target is not None:
            self._target.ring()
        elif self.otherwise is not None:
            self.otherwise()

    async def wait(self) -> NoReturn:
        """Raise: it is the frontend that waits. Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        raise RuntimeError("the frontend waits on this doorbell")

    def wait_blocking(self, timeout: float | None = None) -> NoReturn:
        """Raise: it is the frontend that waits."""
        del timeout
        raise RuntimeError("the frontend waits on this doorbell")

    def fileno(self) -> int | None:
        """Give the descriptor that the frontend reads."""
        return None if self._target is None else self._target.fileno()

    def close(self) -> None:
        """Close the descriptor; a ring after that does nothing. Idempotent."""
        self._closed = True
        self.replace(None)

    def statistics(self) -> DoorbellStatistics:
        """Count what has happened at this doorbell."""
        return DoorbellStatistics(rings=self._rings, wakes=0, waiting=False, closed=self._closed)
