"""What is asked of a disk, as scripts that a driver follows, be it inside trio or in a thread."""

from __future__ import annotations

import hashlib
import random
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from paravirt.transport.wire.block import SECTOR

from ._image import PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ._progress import Bar
    from ._stop import Stop

    Script = Generator["Read | Write | Flush", list[bytes], None]
    """Yields what to ask, and is sent the replies."""

REQUEST = 4096
"""Bytes of one request: a page, the usual one, so that what a request costs is seen."""
SAMPLES = 2000
"""Single requests, one after another, whose latency is measured; 20 of them are beyond p99."""
SAMPLE_NS = 2_000_000_000
"""No more samples after this time."""
WRITTEN = 64 << 20
"""The most bytes of the pattern; on a larger disk its pieces are spread out."""

_STAMP = struct.Struct("<Q8s")


class Read(NamedTuple):
    """Read ranges: sector and bytes."""

    ranges: list[tuple[int, int]]


class Write(NamedTuple):
    """Write parts: sector and data."""

    parts: list[tuple[int, bytes]]


class Flush(NamedTuple):
    """Commit what was written."""


class Reading:
    """What reading a whole disk showed."""

    sha256 = ""
    size = 0
    ns = 0
    """Time that the requests took, without what was done with the data."""

    def __init__(self) -> None:
        self.latencies_ns: list[int] = []

    def percentile_us(self, percent: float) -> float:
        """Return a percentile of the latencies, in microseconds."""
        ordered = sorted(self.latencies_ns)
        return ordered[round((len(ordered) - 1) * percent / 100)] / 1000


def read_all(
    capacity: int, found: Reading, count: Callable[[], None], bar: Bar, stop: Stop
) -> Script:
    """Read everything, then samples one by one; `count` is called in between."""
    digest = hashlib.sha256()
    for start in range(0, capacity, PIECE):
        if stop.asked:
            return
        ranges = list(_requests(start, min(PIECE, capacity - start)))
        began = time.perf_counter_ns()
        pieces = yield Read(ranges)
        found.ns += time.perf_counter_ns() - began
        for piece in pieces:
            digest.update(piece)
        size = sum(map(len, pieces))
        found.size += size
        bar.advance(size)
    found.sha256 = digest.hexdigest()
    count()
    yield from _sample(capacity, found, stop)


def _sample(capacity: int, found: Reading, stop: Stop) -> Script:
    size = min(REQUEST, capacity)
    sectors = (capacity - size) // SECTOR + 1
    chosen = random.Random(0)
    until = time.perf_counter_ns() + SAMPLE_NS
    while len(found.latencies_ns) < SAMPLES and not stop.asked:
        sector = chosen.randrange(sectors)
        began = time.perf_counter_ns()
        yield Read([(sector, size)])
        ended = time.perf_counter_ns()
        found.latencies_ns.append(ended - began)
        if ended > until:
            return


def write_pattern(capacity: int, name: str, bar: Bar, stop: Stop) -> Script:
    """Write the pattern of a name, and flush, also when told to stop before the end."""
    for start, size in pattern_pieces(capacity):
        if stop.asked:
            break
        yield Write([(at, pattern(name, at, n)) for at, n in _requests(start, size)])
        bar.advance(size)
    yield Flush()


def pattern_pieces(capacity: int) -> Iterator[tuple[int, int]]:
    """Give position and size of the pieces that the pattern has on a disk of a size."""
    pieces = -(-capacity // PIECE)
    step = max(1, -(-pieces * PIECE // WRITTEN))
    for piece in range(0, pieces, step):
        yield piece * PIECE, min(PIECE, capacity - piece * PIECE)


def pattern_piece(name: str, start: int, size: int) -> bytes:
    """Return what a piece of the disk holds once the pattern is written."""
    return b"".join(pattern(name, sector, count) for sector, count in _requests(start, size))


def pattern(name: str, sector: int, size: int) -> bytes:
    """Return bytes that belong to one place and one name only."""
    stamp = _STAMP.pack(sector, name.encode()[:8])
    return (stamp * (size // len(stamp) + 1))[:size]


def _requests(start: int, size: int) -> Iterator[tuple[int, int]]:
    for position in range(start, start + size, REQUEST):
        yield position // SECTOR, min(REQUEST, start + size - position)
