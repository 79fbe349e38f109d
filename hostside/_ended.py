"""Where a queue's ring was, once the guest may use the memory for something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from paravirt.transport import PeerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.transport import DeviceRing, DeviceRingStatistics, RingGeometry

__all__ = ()  # of use to this room only


class EndedRing:
    """Takes what comes too late, without effect: a request may be kept longer than its queue lives.

    The ring itself would still write to guest memory, and keep it mapped.
    """

    concurrent = call_due = stalled = rejects = False
    in_flight = left_behind = 0

    def __init__(self, ring: DeviceRing | EndedRing) -> None:
        self.geometry: RingGeometry = ring.geometry
        self._last = ring.statistics()
        self._stale = 0

    def read(self, token: int, offset: int, size: int) -> bytes:
        """Find nothing."""
        del token, offset, size
        return b""

    def write(self, token: int, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Write nothing."""
        del token, offset, data
        return 0

    def read_file(
        self,
        token: int,
        offset: int,
        fd: int,
        position: int,
        size: int,
        flags: int = 0,
        last: bytes = b"",
    ) -> int:
        """Move nothing."""
        del token, offset, fd, position, size, flags, last
        return 0

    write_file = read_file

    def cycle(
        self, done: Sequence[int], lengths: None = None, spin_ns: int = 0, ended: int = 0
    ) -> list[int]:
        """Count the completions; there is nothing to take."""
        del spin_ns
        self.complete(done, lengths, ended)
        return []

    def heads(self, count: int) -> tuple[bytes, ...]:
        """Find nothing."""
        return (b"",) * count

    def complete(self, done: Sequence[int], lengths: None = None, ended: int = 0) -> bool:
        """Count the completions, which are too late."""
        del lengths
        self._stale += len(done) + ended
        return False

    def holds(self, token: int) -> bool:
        """Say that nothing was given back: who replies now is not to blame."""
        del token
        return True

    def written(self, token: int) -> int:
        """Find nothing."""
        del token
        return 0

    def take_reject(self) -> PeerError:
        """Return why nothing is taken."""
        return PeerError("the queue ended")

    def pending(self) -> bool:
        """Say that there is nothing."""
        return False

    arm = pending

    def disarm(self) -> None:
        """Do nothing."""

    def spin(self, ns: int) -> bool:
        """Find nothing, at once."""
        del ns
        return False

    def statistics(self) -> DeviceRingStatistics:
        """Return the last counters, and what came too late since."""
        return replace(self._last, stale=self._last.stale + self._stale)
