"""One disk, served with each doorbell in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from paravirt.hostside.devices.block import Block
from paravirt.transport import PeerError

from ._play import Counts, play
from ._report import Step
from ._script import Reading, pattern_piece, pattern_pieces, read_all, write_pattern

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from paravirt.doorbells import Doorbell

    from ._progress import Bar
    from ._script import Script
    from ._stop import Stop


class Tour:
    """Reads a disk and writes to a copy of it, with one kind of doorbell after another."""

    def __init__(self, disk: Block, scratch: Path, sha256: str, *, bar: Bar, stop: Stop) -> None:
        self._disk = disk
        self._scratch = scratch
        self._sha256 = sha256
        self._bar = bar
        self._stop = stop
        self.failures: list[str] = []
        """A line for each thing that went wrong."""

    def visit(self, kind: type[Doorbell]) -> Step:
        """Read all, compare, write, flush and verify with one kind; raises what `Stop.check` does.

        What goes wrong is noted in the step and in `failures`; a bug in the device escapes.
        """
        step = Step(doorbell=kind.name)
        wrong: list[str] = []
        try:
            wrong += self._read(kind, step) or self._write(kind)
        except* (OSError, PeerError, trio.BrokenResourceError) as group:
            wrong += [str(error) or type(error).__name__ for error in _leaves(group)]
        step.ok = not wrong
        self.failures += [f"{kind.name}: {text}" for text in wrong]
        return step

    def _read(self, kind: type[Doorbell], step: Step) -> list[str]:
        self._bar.begin(f"{kind.name}: reading")
        found = Reading()
        counts: list[Counts] = []

        def make_script(capacity: int, count: Callable[[], Counts]) -> Script:
            return read_all(capacity, found, lambda: counts.append(count()), self._bar, self._stop)

        trio.run(play, self._disk, kind, make_script)
        self._stop.check()
        _fill(step, found, counts[0])
        if found.sha256 == self._sha256:
            return []
        return [f"read bytes with the SHA-256 {found.sha256}, the image's is {self._sha256}"]

    def _write(self, kind: type[Doorbell]) -> list[str]:
        self._bar.begin(f"{kind.name}: writing")

        def make_script(capacity: int, count: Callable[[], Counts]) -> Script:
            del count
            return write_pattern(capacity, kind.name, self._bar, self._stop)

        with Block(self._scratch) as disk:
            trio.run(play, disk, kind, make_script)
            capacity = disk.capacity
        self._stop.check()
        return self._verify(kind.name, capacity)

    def _verify(self, name: str, capacity: int) -> list[str]:
        """Compare the file itself with what was written."""
        with self._scratch.open("rb") as file:
            for start, size in pattern_pieces(capacity):
                file.seek(start)
                if file.read(size) != pattern_piece(name, start, size):
                    return [f"what was written is not in the file, at {start} or behind"]
        return []


def _fill(step: Step, found: Reading, counts: Counts) -> None:
    seconds = max(found.ns, 1) / 1e9
    requests = max(counts.requests, 1)
    step.bytes = found.size
    step.sha256 = found.sha256
    step.mib_per_s = round(found.size / seconds / (1 << 20), 1)
    step.requests_per_s = round(counts.requests / seconds, 1)
    step.p50_us = round(found.percentile_us(50), 1)
    step.p99_us = round(found.percentile_us(99), 1)
    step.kicks_per_request = round(counts.kicks / requests, 5)
    step.calls_per_request = round(counts.calls / requests, 5)


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    """Return the exceptions of a group and of the groups in it."""
    found: list[Exception] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found += _leaves(error)
        else:
            found.append(error)
    return found
