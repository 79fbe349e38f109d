"""Our drivers over our own backend: both ends of vhost-user, in one process."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.guestside import Driver
from paravirt.guestside.block import BlockDriver, SyncBlockDriver
from paravirt.guestside.vhost_user import WANTED, VhostUserLink, connect_vhost_user
from paravirt.hostside import Device, Request
from paravirt.hostside.devices.block import Block
from paravirt.hostside.vhost_user import Terms, serve_vhost_user
from paravirt.transport.vhost_user import Dialect, ProtocolFeature
from tests.devices import Level, Tank, Upper
from tests.disks import content, image

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator
    from pathlib import Path

SIZE = 1 << 20
connect = partial(connect_vhost_user, memory_size=1 << 22, queue_size=16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def disk(tmp_path: Path, rng: random.Random) -> Path:
    return image(tmp_path / "disk", rng.randbytes(SIZE))


@contextlib.asynccontextmanager
async def served(
    device: Device, path: Path, terms: Terms | None = None
) -> AsyncGenerator[trio.CancelScope]:
    """Serve a device at a path; yields what ends it."""
    end = trio.CancelScope()

    async def run(task_status: trio.TaskStatus[str]) -> None:
        with end:
            await serve_vhost_user(device, path, terms=terms, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield end
        end.cancel()


@pytest.mark.parametrize(
    "agreed",
    [
        WANTED,
        WANTED & ~ProtocolFeature.CONFIGURE_MEM_SLOTS,
        WANTED & ~ProtocolFeature.STATUS & ~ProtocolFeature.RESET_DEVICE,
        WANTED & ~ProtocolFeature.REPLY_ACK & ~ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.CONFIG,
    ],
    ids=["all", "table", "stateless", "unacknowledged", "least"],
)
async def test_disk_is_read_and_written(disk: Path, path: Path, agreed: ProtocolFeature) -> None:
    before = content(disk)
    with Block(disk) as device:
        async with (
            served(device, path),
            connect(path, protocol_features=agreed) as link,
            BlockDriver(link) as driver,
        ):
            assert await driver.read(0, SIZE) == before
            await driver.write(3, b"x" * 512)
            await driver.flush()
            await driver.reset()
            assert await driver.read(3, 512) == b"x" * 512

    assert content(disk) == before[: 3 * 512] + b"x" * 512 + before[4 * 512 :]


@pytest.mark.parametrize("bit", [21, 33])
async def test_disk_with_its_rings_at_the_guest_s_addresses_is_read(
    disk: Path, path: Path, bit: int
) -> None:
    """GPA_ADDRESSES has a bit that is configured at both ends."""
    dialect = Dialect(gpa_addresses=bit)
    terms = Terms(also=ProtocolFeature.GPA_ADDRESSES, dialect=dialect)
    with Block(disk) as device:
        async with (
            served(device, path, terms),
            connect(path, dialect=dialect) as link,
            BlockDriver(link) as driver,
        ):
            assert ProtocolFeature.GPA_ADDRESSES in link.session.agreed
            assert await driver.read(0, SIZE) == content(disk)


IN_BAND = Terms(also=ProtocolFeature.INBAND_NOTIFICATIONS)


async def test_disk_is_driven_by_messages_alone(disk: Path, path: Path) -> None:
    """INBAND_NOTIFICATIONS: VRING_KICK one way, VRING_CALL the other, on two queues."""
    before = content(disk)
    with Block(disk, queues=2) as device:
        async with (
            served(device, path, IN_BAND),
            connect(path, in_band=True) as link,
            BlockDriver(link) as driver,
        ):
            async with trio.open_nursery() as nursery:
                for sector in range(0, SIZE // 512, 16):
                    nursery.start_soon(turn_over, driver, sector, 16 * 512)
            await driver.flush()
            await driver.reset()
            assert await driver.read(15, 512) == before[:512][::-1]

    turned = b"".join(before[at : at + 8192][::-1] for at in range(0, SIZE, 8192))
    assert content(disk) == turned


async def turn_over(driver: BlockDriver, sector: int, size: int) -> None:
    """Write what a place of the disk has back to it, the last byte first."""
    await driver.write(sector, (await driver.read(sector, size))[::-1])


async def test_every_queue_answers(path: Path) -> None:
    async with (
        served(Upper(8, 8, 8), path),
        connect(path) as link,
        Driver(link, queue_size=8) as driver,
    ):
        replies = [await driver.request(b"hello", 5, queue) for queue in range(3)]

    assert replies == [b"HELLO"] * 3


async def test_next_frontend_finds_the_device_as_new(path: Path) -> None:
    async with served(Upper(16), path):
        for _ in range(3):
            async with connect(path) as link, Driver(link) as driver:
                assert await driver.request(b"hello", 5) == b"HELLO"


async def test_frontend_that_vanishes_in_the_middle_does_no_harm(path: Path) -> None:
    async with served(Upper(16), path):
        async with connect(path) as link:
            driver = Driver(link)
            await driver.__aenter__()
            driver.submit(b"hello", 5)
        async with connect(path) as link, Driver(link) as driver:
            assert await driver.request(b"hello", 5) == b"HELLO"


async def test_change_of_the_configuration_reaches_the_driver(path: Path) -> None:
    """2.5: one notification for a change."""
    tank = Tank()
    async with served(tank, path), connect(path) as link, Driver(link) as driver:
        before = await driver.read_config(Level)
        tank.config = Level(before.level + 1)
        await driver.config_changed()

        assert (await driver.read_config(Level)).level == before.level + 1


class Silent(Device):
    """Never answers."""

    device_id = 42
    queue_sizes = (16,)

    def __init__(self) -> None:
        self.arrived = trio.Event()

    async def handle(self, request: Request) -> None:
        del request
        self.arrived.set()
        await trio.sleep_forever()


async def test_end_of_the_backend_breaks_what_waits(path: Path) -> None:
    silent = Silent()
    async with (
        served(silent, path) as end,
        connect(path) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(raises_broken, driver)
        await silent.arrived.wait()
        end.cancel()


async def test_reset_does_not_wait_for_a_device_that_never_answers(path: Path) -> None:
    """2.4: a reset cancels; RESET_DEVICE comes before GET_VRING_BASE, which drains."""
    silent = Silent()
    async with (
        served(silent, path),
        connect(path) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(raises_broken, driver)
        await silent.arrived.wait()
        await driver.reset()


async def raises_broken(driver: Driver) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await driver.request(b"hello", 5)


async def test_nothing_is_left_open(disk: Path, path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Block(disk) as device:
        async with served(device, path), connect(path) as link, BlockDriver(link) as driver:
            await driver.read(0, 512)

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("in_band", [False, True], ids=["rung", "in band"])
async def test_thread_without_trio_drives_it(disk: Path, path: Path, in_band: bool) -> None:
    def drive(link: VhostUserLink) -> bytes:
        with SyncBlockDriver(link) as driver:
            return driver.read(1, 512)

    with Block(disk) as device:
        async with served(device, path, IN_BAND), connect(path, in_band=in_band) as link:
            assert await trio.to_thread.run_sync(drive, link) == content(disk)[512:1024]
