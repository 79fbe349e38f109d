"""A ring whose device's end logs what it writes, and a look at the log after each step."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from paravirt.transport import DeviceRing, DirtyLog, Memory, Region, RingGeometry

from .hand_ring import NEXT, WRITE, HandRing

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

PAGE = 4096
RINGS, RINGS_SIZE = 0x10000, 4 * PAGE
DATA, DATA_SIZE = 0x100000, 8 * PAGE
USED = RINGS + 2 * PAGE - 44
"""The used ring of 16 entries lies over the border of two pages,"""
USED_LOG = 0x400000 - 24
"""and is logged elsewhere, where the border is at another place."""
SIZE = 16
BYTES = 0x100
"""Of log: for the first 8 MiB."""


def pages(addr: int, size: int) -> set[int]:
    """Return the pages that a range touches."""
    return set(range(addr // PAGE, (addr + size - 1) // PAGE + 1)) if size else set()


def used_entry(index: int) -> set[int]:
    """Return the pages by which a used entry is logged, and the used index with it."""
    return pages(USED_LOG + 4 + 8 * (index % SIZE), 8) | pages(USED_LOG + 2, 2)


class LoggedRing:
    """Guest memory, a driver that does all by hand, and a device's end with a log."""

    def __init__(self, features: int = 0, *, used: int | None = USED_LOG) -> None:
        regions = [Region.create(RINGS_SIZE, addr=RINGS), Region.create(DATA_SIZE, addr=DATA)]
        self.memory = Memory(regions)
        geometry = RingGeometry(
            SIZE, desc=RINGS, driver=RINGS + 512, device=USED, features=features
        )
        self.driver = HandRing(self.memory, geometry)
        self.file = os.memfd_create("log")
        os.ftruncate(self.file, BYTES)
        self.log = DirtyLog(os.dup(self.file), size=BYTES)
        self.device = DeviceRing(self.memory, geometry)
        self.device.log_to(self.log, used)

    def close(self) -> None:
        self.memory.close()
        os.close(self.file)

    def offer(self, segments: Sequence[tuple[int, int]], *, readable: int = 0) -> int:
        """Offer a chain of one readable buffer and some writable ones; returns its token."""
        self.driver.desc(0, DATA, readable, NEXT if segments else 0, 1)
        for index, (addr, size) in enumerate(segments, 1):
            more = NEXT if index < len(segments) else 0
            self.driver.desc(index, addr, size, WRITE | more, index + 1)
        self.driver.offer(0)
        token, _ = self.device.cycle([], [])
        return token

    def marked(self) -> set[int]:
        """Return the pages that are marked."""
        bits = os.pread(self.file, BYTES, 0)
        return {page for page in range(8 * BYTES) if bits[page // 8] >> page % 8 & 1}

    @contextmanager
    def marks(self, expected: set[int]) -> Generator[None]:
        """Check that these pages are marked inside, and that no other page was written."""
        before = self._image()
        os.pwrite(self.file, bytes(BYTES), 0)
        yield
        assert self.marked() == expected
        assert self._written(before) <= expected

    def _image(self) -> tuple[bytes, bytes]:
        return self.memory.read(RINGS, RINGS_SIZE), self.memory.read(DATA, DATA_SIZE)

    def _written(self, before: tuple[bytes, bytes]) -> set[int]:
        found: set[int] = set()
        for start, old, new in zip((RINGS, DATA), before, self._image(), strict=True):
            if old != new:
                found |= {start + at for at, byte in enumerate(new) if byte != old[at]}
        end = USED + 6 + 8 * SIZE
        return {(at - USED + USED_LOG if USED <= at < end else at) // PAGE for at in found}
