"""`paravirt bench vhost-user`: anybody's vhost-user-blk backend under a load from a C loop."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from paravirt.guestside.load import AsyncLoadDriver
from paravirt.guestside.vhost_user import connect_vhost_user
from paravirt.transport import PeerError
from paravirt.transport.wire.block import (
    DEVICE_ID,
    SECTOR,
    BlockConfig,
    BlockFeature,
    BlockType,
)

from .._errors import BadInput
from ._backends import backends
from ._block import DISK, SIZE, figures_of, kind_name, run_load
from ._report import Case, Report, bench_options, run_cases, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from paravirt.transport.bench import LoadResult

DEPTHS = (1, 64)
REQUESTS = 100_000
"""At depth 64; with a backend in memory that is some 0.4 s of each case."""
ALONE = 5
"""At depth 1 a request takes so many times as long, or more: so many times fewer are sent."""


class BlockLoad(AsyncLoadDriver):
    """A driver with a write cache to flush, so that no backend has to commit each write."""

    device_id = DEVICE_ID
    wanted_features = int(BlockFeature.FLUSH | BlockFeature.RO)


async def measure(path: Path, kind: BlockType, depth: int, count: int) -> Mapping[str, float]:
    """Connect, send one load, and leave. Raises `BadInput` for what cannot be measured."""
    try:
        link_to = connect_vhost_user(path, device_id=DEVICE_ID, queues=1)
        async with link_to as link, BlockLoad(link) as driver:
            size = await _usable(path, driver, kind)
            load = partial(_pinned, driver, kind, depth, count, size)
            result = await driver.run_load_in_thread(load)
    except (OSError, PeerError, trio.BrokenResourceError) as error:
        raise BadInput(f"{path}: {error}") from None
    expected = 1 + (SIZE if kind == BlockType.IN else 0)
    if result.bytes_out != result.requests * expected:
        raise BadInput(f"{path}: it answered {result.requests} requests, but not all of them well")
    return figures_of(result)


async def _usable(path: Path, driver: BlockLoad, kind: BlockType) -> int:
    """Return how many bytes of a disk the load may use."""
    config = await driver.read_config(BlockConfig)
    size = min(config.capacity * SECTOR, DISK)
    if size < SIZE:
        raise BadInput(f"{path}: a disk of {size} bytes is too small for requests of {SIZE}")
    if kind == BlockType.OUT and driver.features & BlockFeature.RO:
        raise BadInput(f"{path}: the disk is read-only: leave out --write")
    return size


def _pinned(driver: BlockLoad, kind: BlockType, depth: int, count: int, size: int) -> LoadResult:
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[-1]})  # of this thread only
    try:
        return run_load(driver, kind, depth, count, size)
    finally:
        os.sched_setaffinity(0, cpus)


def report(
    paths: Mapping[str, Path], kinds: Sequence[BlockType], requests: int, runs: int
) -> Report:
    """Measure all backends in turn, again and again."""

    def case(name: str, path: Path, kind: BlockType, depth: int) -> Case:
        count = requests if depth > 1 else max(1, requests // ALONE)

        def run() -> Mapping[str, float]:
            return trio.run(measure, path, kind, depth, count)

        return Case(kind_name(kind), name, depth, SIZE, run)

    cases = [
        case(name, path, kind, depth)
        for kind in kinds
        for depth in DEPTHS
        for name, path in paths.items()
    ]
    return run_cases("vhost-user", cases, runs)


async def compare(folder: Path, requests: int, runs: int) -> Report:
    """Start the backends of this machine in a scratch folder, and measure them."""
    try:
        content = os.urandom(DISK)
        async with backends(folder, content) as paths:
            job = partial(report, paths, (BlockType.IN, BlockType.OUT), requests, runs)
            return await trio.to_thread.run_sync(job, abandon_on_cancel=True)
    except OSError as error:
        raise BadInput(
            f"{folder}: {error.strerror}; it needs room for four disks of 64 MiB"
        ) from None


@click.command(
    name="vhost-user",
    epilog="""
    \b
    Examples:
      paravirt bench vhost-user
      paravirt bench vhost-user /run/disk.sock
      paravirt bench vhost-user ours.sock theirs.sock --write --json
    """,
)
@click.argument("sockets", nargs=-1, type=click.Path(path_type=Path), metavar="[SOCKET]...")
@click.option(
    "--write", is_flag=True, help="Measure writes too, which destroy what is on the disk."
)
@click.option(
    "--requests",
    default=REQUESTS,
    show_default=True,
    type=click.IntRange(1),
    help="How many are sent at depth 64; a fifth of them at depth 1.",
)
@bench_options
def vhost_user(
    sockets: tuple[Path, ...], *, write: bool, requests: int, runs: int, as_json: bool
) -> None:
    """Measure random 4 KiB reads and writes of vhost-user-blk backends.

    The peers are the backends at the sockets, by their names. Without a socket, ours is measured
    beside QEMU's storage daemon in each of its modes, both on files in memory.
    """
    if sockets:
        kinds = (BlockType.IN, BlockType.OUT) if write else (BlockType.IN,)
        paths = {str(path): path for path in sockets}
        show(report(paths, kinds, requests, runs), as_json=as_json)
        return
    memory = Path("/dev/shm")  # noqa: S108  (the folder made in it has a name of its own)
    where = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="paravirt-bench-", dir=where) as folder:
        show(trio.run(compare, Path(folder), requests, runs), as_json=as_json)
