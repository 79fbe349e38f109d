"""Our drivers over QEMU's vhost-user-blk export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import Adaptive, Polling
from paravirt.guestside.block import BlockDriver, SyncBlockDriver
from paravirt.guestside.vhost_user import WANTED, VhostUserLink, connect_vhost_user
from paravirt.transport.vhost_user import ProtocolFeature
from tests.disks import content, image

from .backend import storage_daemon

if TYPE_CHECKING:
    import random
    from collections.abc import Generator
    from pathlib import Path

    from paravirt.doorbells import DoorbellMaker

pytestmark = pytest.mark.qemu
SIZE = 1 << 20
QUEUES = 3


@pytest.fixture
def disk(tmp_path: Path, rng: random.Random) -> Path:
    return image(tmp_path / "disk", rng.randbytes(SIZE))


@pytest.fixture
def path(disk: Path, tmp_path: Path) -> Generator[Path]:
    with storage_daemon(disk, tmp_path / "socket", QUEUES) as path:
        yield path


@pytest.mark.parametrize(
    "agreed",
    [
        WANTED,
        WANTED & ~ProtocolFeature.CONFIGURE_MEM_SLOTS,
        WANTED & ~ProtocolFeature.REPLY_ACK & ~ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.CONFIG,
    ],
    ids=["all", "table", "unacknowledged", "least"],
)
async def test_disk_is_read_and_written(disk: Path, path: Path, agreed: ProtocolFeature) -> None:
    before = content(disk)
    async with (
        connect_vhost_user(path, protocol_features=agreed) as link,
        BlockDriver(link) as driver,
    ):
        assert await driver.read(0, SIZE) == before
        await driver.write(3, b"x" * 512)
        await driver.flush()

    assert content(disk) == before[: 3 * 512] + b"x" * 512 + before[4 * 512 :]


@pytest.mark.parametrize("bell", [Adaptive, Polling], ids=["adaptive", "polling"])
async def test_calls_may_come_by_any_doorbell(disk: Path, path: Path, bell: DoorbellMaker) -> None:
    async with (
        connect_vhost_user(path, call_doorbell=bell) as link,
        BlockDriver(link) as driver,
    ):
        parts = await driver.read_many([(sector, 512) for sector in range(100)])

    assert b"".join(parts) == content(disk)[: 100 * 512]


async def test_every_queue_carries_requests(disk: Path, path: Path) -> None:
    read = bytes(16)  # type IN, sector 0
    async with connect_vhost_user(path) as link, BlockDriver(link) as driver:
        replies = [await driver.request(read, 513, queue) for queue in range(QUEUES)]

    assert replies == [content(disk)[:512] + b"\0"] * QUEUES


async def test_disk_goes_on_after_a_reset(disk: Path, path: Path) -> None:
    async with connect_vhost_user(path) as link:
        async with BlockDriver(link) as driver:
            await driver.write(0, b"y" * 512)
            await driver.reset()
            assert await driver.read(0, 512) == b"y" * 512
        async with BlockDriver(link) as again:
            assert await again.read(0, 512) == b"y" * 512


async def test_disk_goes_on_after_a_new_connection(disk: Path, path: Path) -> None:
    for _ in range(2):
        async with connect_vhost_user(path) as link, BlockDriver(link) as driver:
            assert await driver.read(1, 512) == content(disk)[512:1024]


async def test_thread_without_trio_drives_it(disk: Path, path: Path) -> None:
    def drive(link: VhostUserLink) -> bytes:
        with SyncBlockDriver(link) as driver:
            return driver.read(1, 512)

    async with connect_vhost_user(path) as link:
        assert await trio.to_thread.run_sync(drive, link) == content(disk)[512:1024]
