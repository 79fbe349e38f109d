"""How long a queue works before it publishes, looks at the clock, or lets others run."""

from __future__ import annotations

__all__ = ()  # of use to this room only

HOLD_NS = 50_000
"""Publish after this much handler time: a wake of the sleeping driver costs as much (25-60 us)."""
SHARE_NS = 50_000
"""Work between two checkpoints: how long other tasks, and other guests, wait for the loop."""
LONGEST_SHARE_NS = 8 * SHARE_NS
"""The same while nobody else wants the loop, doubled step by step: a checkpoint costs 5-10 us, a
tenth of the work at SHARE_NS."""
ALONE_NS = 20_000
"""A checkpoint that takes no longer than this ran nobody else worth stopping for."""
LOOK_NS = 10_000
"""Handler time between two looks at the clock, which costs 30-60 us a thousand: a fifth of HOLD_NS,
judged by the requests before, and no more than LOOK_REQUESTS of them in case they mislead."""
LOOK_REQUESTS = 32
