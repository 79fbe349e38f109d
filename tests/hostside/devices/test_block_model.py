"""A disk against a model: an array of bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
from hypothesis import given, strategies as st

from paravirt.guestside.block import BlockDriver
from paravirt.hostside.devices.block import Block
from tests.disks import attached, content, image, in_line

SECTORS = 40
SECTOR = 512

sectors = st.integers(0, SECTORS)
ranges = st.tuples(sectors, sectors).map(lambda ends: (min(ends), max(ends) - min(ends)))
steps = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "zero", "unmap", "discard", "flush", "grow"]),
        ranges,
        st.integers(1, 255),
    ),
    max_size=12,
)


async def do(
    driver: BlockDriver,
    disk: Block,
    path: Path,
    model: bytearray,
    step: str,
    first: int,
    data: bytes,
) -> None:
    """Do one step on the disk and on its model, which is to stay equal."""
    span = slice(first * SECTOR, first * SECTOR + len(data))
    match step:
        case "read":
            assert await driver.read(first, len(data)) == model[span]
        case "write":
            await driver.write(first, data)
            model[span] = data
        case "zero" | "unmap":
            await driver.write_zeroes(first, len(data) // SECTOR, unmap=step == "unmap")
            model[span] = bytes(len(data))
        case "discard":
            await driver.discard(first, len(data) // SECTOR)
            found = await driver.read(first, len(data))
            assert found in (bytes(len(data)), model[span])
            model[span] = found
        case "flush":
            await driver.flush()
            assert content(path) == model
        case _:
            model += bytes(SECTOR)
            with path.open("r+b") as file:
                file.truncate(len(model))
            disk.resize()


async def run(
    path: Path, script: list[tuple[str, tuple[int, int], int]], *, writeback: bool
) -> None:
    model = bytearray(SECTORS * SECTOR)
    with Block(path, writeback=writeback, run_blocking=in_line) as disk:
        async with attached(disk, BlockDriver) as driver:
            for step, (first, count), fill in script:
                data = bytes([fill]) * (count * SECTOR)
                await do(driver, disk, path, model, step, first, data)
            assert await driver.read(0, len(model)) == model


@given(script=steps, writeback=st.booleans())
def test_disk_holds_what_an_array_of_bytes_would(
    script: list[tuple[str, tuple[int, int], int]], writeback: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = image(Path(folder, "disk.img"), SECTORS * SECTOR)
        trio.run(lambda: run(path, script, writeback=writeback))
