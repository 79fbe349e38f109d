"""The pattern that the demo writes."""

from __future__ import annotations

from paravirt.cli.demo._image import PIECE
from paravirt.cli.demo._script import WRITTEN, pattern, pattern_piece, pattern_pieces


def test_pattern_tells_places_and_doorbells_apart() -> None:
    found = {pattern(name, sector, 512) for name in ("direct", "eventfd") for sector in (0, 1)}

    assert len(found) == 4


def test_piece_is_made_of_its_requests() -> None:
    piece = pattern_piece("direct", 8192, 4096 + 512)

    assert piece == pattern("direct", 16, 4096) + pattern("direct", 24, 512)


def test_small_disk_is_written_from_end_to_end() -> None:
    size = PIECE + 512

    assert list(pattern_pieces(size)) == [(0, PIECE), (PIECE, 512)]


def test_large_disk_is_written_here_and_there() -> None:
    pieces = list(pattern_pieces(10 * WRITTEN))

    assert sum(size for _, size in pieces) == WRITTEN
    assert pieces[-1][0] > 9 * WRITTEN
