"""What a command in the guest came to."""

from __future__ import annotations

import msgspec


class Result(msgspec.Struct, frozen=True):
    """How a command ended."""

    status: int
    """The exit status; 128 and the signal's number for one that a signal ended."""
    output: str
    """Standard output and standard error, as they came; bytes that are no UTF-8 are replaced."""
