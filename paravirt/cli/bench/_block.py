"""`paravirt bench block`: random reads and writes of a disk, beside the same system calls alone."""

from __future__ import annotations

import os
import random
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from paravirt.doorbells import Adaptive
from paravirt.guestside.block import SyncBlockDriver
from paravirt.hostside import serve
from paravirt.hostside.devices.block import Block
from paravirt.transport import loopback
from paravirt.transport.wire.block import HEADER, SECTOR, BlockType

from .._errors import BadInput
from ._report import OURS, Case, bench_options, run_cases, show
from ._serve import load

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from paravirt.guestside.load import AsyncLoadDriver, LoadDriver
    from paravirt.transport.bench import LoadResult

SIZE = 4096
SECTORS = SIZE // SECTOR
DISK = 64 << 20
COUNT = 50_000
COUNT_ALONE = 20_000
SECTOR_AT = 8  # of the request's header
STATUS_BYTES = 1


@contextmanager
def scratch_disk(folder: Path) -> Generator[Path]:
    """Make a file full of data that goes away again. Raises `BadInput`."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="paravirt-bench-") as file:
            for _ in range(DISK >> 20):
                file.write(os.urandom(1 << 20))
            file.flush()
            yield Path(file.name)
    except OSError as error:
        raise BadInput(
            f"{folder}: {error.strerror}; name a folder with 64 MiB free with --folder"
        ) from None


def random_sectors(seed: int, size: int = DISK) -> list[int]:
    """Return where to read and write on a disk, the same for all cases of a run."""
    chance = random.Random(seed)
    return [chance.randrange(size // SIZE) * SECTORS for _ in range(4096)]


def run_load(
    driver: LoadDriver | AsyncLoadDriver, kind: BlockType, depth: int, count: int, size: int = DISK
) -> LoadResult:
    """Send random requests of 4 KiB from a C loop, with latencies if one at a time."""
    return driver.run_load(
        count,
        data=HEADER.pack(kind, 0) + (bytes(SIZE) if kind == BlockType.OUT else b""),
        reply_size=STATUS_BYTES + (SIZE if kind == BlockType.IN else 0),
        depth=depth,
        stamps=random_sectors(count, size),
        stamp_offset=SECTOR_AT,
        latencies=depth == 1,
    )


def figures_of(result: LoadResult) -> dict[str, float]:
    """Name what a load measured."""
    figures = {"iops": result.rate, "kicks_per_request": result.kicks / result.requests}
    if result.latencies_ns:
        figures["p50_us"] = result.percentile_us(50)
        figures["p99_us"] = result.percentile_us(99)
    return figures


def ours(path: Path, kind: BlockType, depth: int, count: int) -> Case:
    """Describe requests from a C loop to our block device."""

    def drive(driver: LoadDriver) -> LoadResult:
        return run_load(driver, kind, depth, count)

    def measure() -> Mapping[str, float]:
        with Block(path) as disk:
            return figures_of(trio.run(load, disk, drive, Adaptive))

    return Case(kind_name(kind), OURS, depth, SIZE, measure)


def python_driver(path: Path) -> Case:
    """Describe the same reads by our driver in Python, from one thread."""

    def measure() -> Mapping[str, float]:
        wanted = [(sector, SIZE) for sector in random_sectors(COUNT)]
        with Block(path) as disk:
            return {"iops": trio.run(read_many, disk, wanted)}

    return Case("read, SyncBlockDriver.read_many", OURS, 64, SIZE, measure)


async def read_many(disk: Block, wanted: list[tuple[int, int]]) -> float:
    """Serve a disk to a driver in a thread; returns reads a second."""
    link = loopback(disk, doorbell=Adaptive)

    def client() -> float:
        with SyncBlockDriver(link) as driver:
            start = time.perf_counter()
            driver.read_many(wanted)
            return len(wanted) / (time.perf_counter() - start)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve, disk, link)
        try:
            return await trio.to_thread.run_sync(client)
        finally:
            link.close()


def system_calls(path: Path, kind: BlockType) -> Case:
    """Describe the system calls alone, one after the other."""

    def measure() -> Mapping[str, float]:
        buffer = bytearray(SIZE)
        move = os.preadv if kind == BlockType.IN else os.pwritev
        fd = os.open(path, os.O_RDWR)
        try:
            start = time.perf_counter()
            for sector in random_sectors(COUNT):
                move(fd, [buffer], sector * SECTOR)
            return {"iops": 4096 / (time.perf_counter() - start)}
        finally:
            os.close(fd)

    return Case(kind_name(kind), "preadv/pwritev in a loop", 1, SIZE, measure)


def kind_name(kind: BlockType) -> str:
    """Say what a request does."""
    return "read" if kind == BlockType.IN else "write"


@click.command(
    name="block",
    epilog="""
    \b
    Examples:
      paravirt bench block
      paravirt bench block --folder /var/tmp --json
    """,
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the file lies that is served.  [default: /dev/shm if there is one]",
)
@bench_options
def block(folder: Path | None, runs: int, as_json: bool) -> None:
    """Measure random 4 KiB reads and writes of a file served as a disk."""
    memory = Path("/dev/shm")  # noqa: S108  (the file made in it has a name of its own)
    folder = folder or (memory if memory.is_dir() else Path(tempfile.gettempdir()))
    with scratch_disk(folder) as path:
        cases = [
            case
            for kind in (BlockType.IN, BlockType.OUT)
            for case in (
                system_calls(path, kind),
                ours(path, kind, 1, COUNT_ALONE),
                ours(path, kind, 64, COUNT),
            )
        ]
        report = run_cases("block", [*cases, python_driver(path)], runs)
    show(report, as_json=as_json)
