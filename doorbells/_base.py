"""What a doorbell is, and what a ring shows to whoever waits for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

if TYPE_CHECKING:
    from ._window import SpinWindow


class Watched(Protocol):
    """One end of a ring, seen by a waiter; transport implements it."""

    def pending(self) -> bool:
        """Tell whether there is something to take now: one load, no barrier."""
        ...

    def arm(self) -> bool:
        """Ask the peer to notify, pass a full barrier, look again; True if something is there.

        Without the barrier the look may be done before the peer can see the request: the peer
        publishes, sees no request, does not ring, and the waiter sleeps on work.
        """
        ...

    def disarm(self) -> None:
        """Tell the peer that no notification is needed."""
        ...

    def spin(self, ns: int) -> bool:
        """Look for up to `ns` nanoseconds without the interpreter lock; True once work is found.

        Looks only once if the peer cannot run while the caller does (both in one thread).
        """
        ...


class DoorbellStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one doorbell has done so far."""

    rings: int
    """Calls of `ring()`; a ring by a guest or by another process is not seen here."""
    wakes: int
    """Waits that returned; several rings may share one, and a spurious one counts."""
    waiting: bool
    """Somebody waits now."""
    closed: bool
    """`close()` was called."""
    window_ns: int = 0
    """How long a waiter looks now before it sleeps."""
    hits: int = 0
    """Looks that found work within the window."""
    misses: int = 0
    """Looks that found none, and sleeps without a look while the window is shut."""


class Doorbell(ABC):
    """A way to say "look at the ring" to one waiter; it carries no data.

    `paravirt.doorbells.testing.check_doorbell` is this contract as a function.
    """

    name: ClassVar[str]
    """The kind, in one word."""
    notifies: ClassVar[bool] = True
    """False: nothing is ever rung, whoever waits looks again and again."""
    window: SpinWindow | None = None
    """How long a waiter looks before it sleeps; None: it sleeps at once."""

    @abstractmethod
    def ring(self) -> None:
        """Wake the waiter, or let its next wait return at once; never blocks, from any thread.

        A kind that is bound to one thread raises RuntimeError in any other.
        Raises trio.ClosedResourceError after `close`.
        """

    @abstractmethod
    async def wait(self) -> None:
        """Wait for a ring; always a checkpoint.

        Returns at least once after any ring since its last return: rings merge, and a return
        without a ring is allowed. A cancelled wait consumes nothing. Raises trio.BusyResourceError
        if somebody already waits, trio.ClosedResourceError once the doorbell is closed.
        """

    @abstractmethod
    def wait_blocking(self, timeout: float | None = None) -> bool:
        """Wait in a thread without trio: True if (perhaps) rung, False when time is up.

        Raises what `wait` raises; a kind that cannot be rung while this thread sleeps raises
        RuntimeError.
        """

    def fileno(self) -> int | None:
        """Give the descriptor that a ring makes readable, None if there is none.

        Raises trio.ClosedResourceError after `close`: the number may be another file's by then.
        """
        return None

    def describe(self) -> str:
        """Say in a few words which doorbell this is, for people; works when closed."""
        return self.name if self.window is None else f"{self.name}, looks for {self.window}"

    @abstractmethod
    def close(self) -> None:
        """Close, and wake the waiter with trio.ClosedResourceError; from any thread, idempotent."""

    @abstractmethod
    def statistics(self) -> DoorbellStatistics:
        """Count what has happened at this doorbell."""


DoorbellMaker = Callable[[], Doorbell]
"""What a `doorbell=` argument takes; a class without required arguments is one."""


class Capability(msgspec.Struct, frozen=True):
    """Whether this host has one kind of doorbell."""

    name: str
    """The kind's `name`."""
    available: bool
    """It can be made and used here."""
    reason: str
    """Why not, or how it will behave here."""
