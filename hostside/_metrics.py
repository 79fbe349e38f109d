"""What happened, as frozen records."""

from __future__ import annotations

import msgspec


class QueueStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One queue, since the driver started it."""

    queue: int
    """Its index."""
    requests: int
    """Requests taken."""
    completed: int
    """Requests given back."""
    in_flight: int
    """Requests that the device has now."""
    bytes_in: int
    """Bytes that the driver sent."""
    bytes_out: int
    """Bytes that the device wrote, by used length."""
    kicks: int
    """Times that the server was woken by its doorbell."""
    calls: int
    """Times that the server rang the driver."""
    suppressed: int
    """Publications for which the driver wanted no call."""
    ahead: int
    """Requests that `Device.ahead` ended."""
    cut: int
    """Writes that the room for the reply was too small for."""
    stale: int
    """Completions dropped since their request was over."""
    rejected: dict[str, int]
    """Bad chains and indices by cause."""
    broken: str | None
    """Why the queue works no more until a reset, if so."""


class ServerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One device while it is served."""

    resets: int
    """Resets by the driver."""
    queues: list[QueueStatistics]
    """The queues that run now."""
