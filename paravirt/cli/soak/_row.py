"""What is run, and what came of it."""

from __future__ import annotations

from typing import Final

import msgspec


class Load(msgspec.Struct, frozen=True):
    """One driver, and how it asks."""

    name: str
    kvm: bool
    """In a guest; else in this process."""
    depth: int
    """Requests in flight."""
    interrupt: bool = False
    """The guest sleeps until a reply; else it looks at the ring."""


LOADS: Final = (
    Load("loopback", kvm=False, depth=1),
    Load("loopback-depth-64", kvm=False, depth=64),
    Load("kvm-interrupt", kvm=True, depth=1, interrupt=True),
    Load("kvm-polling", kvm=True, depth=1),
    Load("kvm-depth-64", kvm=True, depth=64),
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How each load is run."""

    seconds: float
    every: float
    """Seconds from one change of the doorbell to the next."""
    seed: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a load."""

    load: str
    available: bool
    outcome: str
    """"ok", or what went wrong, or why it cannot run here."""
    seconds: float = 0.0
    kinds: list[str] = []
    """The doorbells that it was changed between."""
    swaps: int = 0
    late: int = 0
    """Swaps that were due before the last was over, which the driver had to notice first."""
    swap_ms_p50: float | None = None
    """From the call of `swap` until the old doorbell is gone."""
    swap_ms_max: float | None = None
    requests: int | None = None
    """That the driver sent; None if it did not get to say."""
    lost: int | None = None
    """That the device did not get."""
    repeated: int = 0
    """That the device got again, or out of turn."""


class Report(msgspec.Struct, frozen=True):
    """The document that `--json` prints."""

    every_ms: float
    seed: int
    rows: list[Row]
