"""What happened on a queue, from the device's end."""

from __future__ import annotations

import msgspec

__all__ = ()  # the menu of `transport` has it


class DeviceRingStatistics(msgspec.Struct, frozen=True):
    """What happened on a queue since it started, from the device's end."""

    popped: int
    """Chains taken."""
    completed: int
    """Chains given back by the device, not counting bad ones."""
    in_flight: int
    """Chains that the device has now."""
    bytes_in: int
    """Readable bytes of the chains taken."""
    bytes_out: int
    """Used lengths of the chains given back."""
    stale: int
    """Completions dropped: the second of one chain, or one from before a reset."""
    rejected: dict[str, int]
    """Bad chains and indices by cause (`Cause` in lower case)."""
    broken: str | None
    """Why the queue works no more until a reset, if so."""
    ahead: int = 0
    """Chains that a loop in C took and gave back by itself (`PlainDisk`)."""
    silent: int = 0
    """Times that it gave some back and the driver wanted no call."""
