"""`paravirt bench ring`: two CPUs, and nothing but the ring between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from paravirt.transport import DeviceRing, DriverRing, Feature, Memory, Region, RingGeometry
from paravirt.transport.bench import least_ring_ns, ping_pong_ns, ring_ns

from ._report import OURS, PING_PONGS, Case, bench_options, run_cases, show

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE = 1 << 20
SIZE = 256  # the usual queue size
BUFFER = 64  # bytes a request, as the loop in C has them
COUNT = 500_000  # 0.05 s a case, enough for three digits
COUNT_ALONE = 100_000  # at depth 1 each costs two to three ping-pongs
DEPTHS = (1, 16, 64, 256)
BATCH = 16


def ring_case(depth: int, batch: int) -> Case:
    """Describe requests through our ring, `batch` published together."""

    def measure() -> Mapping[str, float]:
        with Region.create(1 << 20, addr=BASE) as region:
            memory = Memory([region])
            geometry = RingGeometry.contiguous(SIZE, BASE, Feature.RING_EVENT_IDX)
            ends = DriverRing(memory, geometry), DeviceRing(memory, geometry)
            count = COUNT if depth > 1 else COUNT_ALONE
            return {"ns_per_buffer": ring_ns(*ends, geometry.end + 63 & ~63, count, depth, batch)}

    return Case(_name(batch), OURS, depth, BUFFER, measure)


def least_case(batch: int) -> Case:
    """Describe the least ring there can be, one way only."""

    def measure() -> Mapping[str, float]:
        return {"ns_per_buffer": least_ring_ns(COUNT, batch)}

    return Case(_name(batch), "single-producer ring, one way", SIZE, 16, measure)


def _name(batch: int) -> str:
    return "one by one" if batch == 1 else f"batches of {batch}"


def floor_cases() -> list[Case]:
    """Describe what no ring can beat: a cache line, and the least ring there can be."""
    bounce = Case(
        "cache line", "ping-pong", 1, 4, lambda: {"ping_pong_ns": ping_pong_ns(PING_PONGS)}
    )
    least = [least_case(1), least_case(BATCH)]
    return [bounce, *least]


@click.command(
    name="ring",
    epilog="""
    \b
    Examples:
      paravirt bench ring
      paravirt bench ring --runs 20 --json > ring.json
    """,
)
@bench_options
def ring(runs: int, as_json: bool) -> None:
    """Measure a request through the split ring, there and back, between two CPUs.

    Both ends look at the ring all the time, so no doorbell takes part.
    """
    cases = floor_cases()
    cases += [ring_case(depth, 1) for depth in DEPTHS]
    cases += [ring_case(depth, BATCH) for depth in DEPTHS if depth >= BATCH]
    show(run_cases("ring", cases, runs), as_json=as_json)
