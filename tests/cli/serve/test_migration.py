"""Two `paravirt serve block --migratable` on one image: our frontend goes from one to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.guestside.block import BlockDriver, BlockError
from paravirt.guestside.vhost_user import VhostUserLink, connect_vhost_user
from tests.cli.serve.serving import served_by_command
from tests.disks import content, image

if TYPE_CHECKING:
    import random
    from pathlib import Path

SIZE = 1 << 20
SECTOR = 512


async def write_and_leave(link: VhostUserLink, sector: int, data: bytes) -> bytes:
    """Write to the disk, stop its queues, and return the device's state."""
    async with BlockDriver(link) as driver:
        await driver.write(sector, data)
        await driver.set_writeback(sector % 2 == 0)
    return await link.save_state()


async def test_disk_goes_to_the_other_process_and_back(tmp_path: Path, rng: random.Random) -> None:
    disk = image(tmp_path / "disk.img", SIZE)
    sockets = [tmp_path / "one.sock", tmp_path / "two.sock"]
    data = rng.randbytes(4 * SECTOR)
    state = None
    async with (
        served_by_command(disk, sockets[0], "--migratable"),
        served_by_command(disk, sockets[1], "--migratable"),
    ):
        for sector in range(4):
            async with connect_vhost_user(sockets[sector % 2], memory_size=SIZE) as link:
                if state is not None:
                    await link.load_state(state)
                    async with BlockDriver(link) as driver:
                        assert (await driver.refresh()).writeback == sector % 2
                        found = await driver.read(0, sector * SECTOR)
                        assert found == data[: sector * SECTOR]
                part = data[sector * SECTOR : (sector + 1) * SECTOR]
                state = await write_and_leave(link, sector, part)

    assert content(disk) == data + bytes(SIZE - len(data))


async def test_other_process_does_not_write_while_the_first_one_may(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", SIZE)
    sockets = [tmp_path / "one.sock", tmp_path / "two.sock"]
    async with (
        served_by_command(disk, sockets[0], "--migratable"),
        served_by_command(disk, sockets[1], "--migratable"),
        connect_vhost_user(sockets[0], memory_size=SIZE) as one,
        connect_vhost_user(sockets[1], memory_size=SIZE) as two,
        BlockDriver(two) as second,
    ):
        async with BlockDriver(one) as first:
            await first.write(0, b"1" * SECTOR)
            with pytest.raises(BlockError):
                await second.write(0, b"2" * SECTOR)
        await second.write(1, b"2" * SECTOR)

    assert content(disk)[: 2 * SECTOR] == b"1" * SECTOR + b"2" * SECTOR
