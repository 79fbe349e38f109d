"""One thing that a machine has or lacks."""

from __future__ import annotations

import msgspec


class Check(msgspec.Struct, frozen=True):
    """Whether this machine has one thing."""

    name: str
    available: bool
    reason: str
    """What there is, or why there is none and what to do about it."""


class Section(msgspec.Struct, frozen=True):
    """Checks that belong together."""

    title: str
    checks: list[Check]
