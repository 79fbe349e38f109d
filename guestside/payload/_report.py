"""What the payload said on its console: lines of `name=value`."""

from __future__ import annotations

import enum

import msgspec

__all__ = ("PayloadResult", "Report", "parse")

_WORDS = ("program", "status", "reason", "detail")


class PayloadResult(enum.IntEnum):
    """The exit codes of the payload; `enum pv_result`."""

    OK = 0
    BAD_ARGUMENT = 1
    """It was asked for what cannot be."""
    REFUSED = 2
    """It could not agree with the device."""
    BROKEN = 3
    """The device broke the rules of the ring."""
    WRONG = 4
    """The device answered with other data, or an error."""
    SILENT = 5
    """The device did not answer, or wants a reset."""
    NO_MEMORY = 6
    """The pool is too small for what was asked."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How one task ended."""

    program: str
    ok: bool
    reason: str = ""
    """Why not, in a word: `used-id`, `wrong-data`, `features-refused`, ..."""
    detail: int = 0
    """The number that goes with the reason: a length, a sector, a queue, features, ..."""
    figures: dict[str, int] = {}
    """All counts by name: requests, bytes, kicks, interrupts, cycles, and of single events least,
    p50, p99 and most, in cycles."""


def parse(console: str) -> Report:
    """Return what the last line says that is a report.

    Raises ValueError if there is none: the payload was stopped before its end.
    """
    lines = [line for line in console.splitlines() if "program=" in line and "status=" in line]
    if not lines:
        raise ValueError(f"the payload has not reported: {console!r}")
    words = dict(word.split("=", 1) for word in lines[-1].split() if "=" in word)
    return Report(
        program=words["program"],
        ok=words["status"] == "ok",
        reason=words.get("reason", ""),
        detail=int(words.get("detail", 0)),
        figures={name: int(value) for name, value in words.items() if name not in _WORDS},
    )
