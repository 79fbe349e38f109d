"""A link that outlives its backend: the next one takes up what was in flight."""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.guestside import Driver, SyncDriver
from paravirt.guestside.block import BlockDriver
from paravirt.guestside.vhost_user import VhostUserLink, connect_vhost_user
from paravirt.hostside import Device, Request as Asked
from paravirt.hostside.devices.block import Block
from paravirt.hostside.vhost_user import Terms, serve_vhost_user
from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import ProtocolFeature as Has, Request
from paravirt.transport.vhost_user.payloads import Number
from tests.devices import Upper
from tests.disks import content, image

from .backend import Scripted

if TYPE_CHECKING:
    import random
    from pathlib import Path

connect = partial(connect_vhost_user, memory_size=1 << 22, queue_size=16, reconnect=True)
IN_BAND = Terms(also=Has.INBAND_NOTIFICATIONS)
either_way = pytest.mark.parametrize("in_band", [False, True], ids=["rung", "in band"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


class Holding(Device):
    """Answers nothing."""

    device_id = 42
    queue_sizes = (16, 16)

    def __init__(self) -> None:
        self.held = 0

    async def handle(self, request: Asked) -> None:
        del request
        self.held += 1
        await trio.sleep_forever()

    async def has(self, count: int) -> None:
        while self.held < count:
            await trio.lowlevel.checkpoint()


class Backends:
    """One backend after another at a path."""

    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self._path = path
        self._nursery = nursery
        self._end = trio.CancelScope()
        self._ended = trio.Event()

    async def start(self, device: Device) -> None:
        """Serve a device."""
        await self._nursery.start(self._serve, device)

    async def _serve(self, device: Device, task_status: trio.TaskStatus[str]) -> None:
        self._end, self._ended = trio.CancelScope(), trio.Event()
        with self._end:
            await serve_vhost_user(device, self._path, terms=IN_BAND, task_status=task_status)
        self._ended.set()

    async def stop(self) -> None:
        """End it, in the middle of whatever it does."""
        self._end.cancel()
        await self._ended.wait()


@pytest.fixture
def backends(path: Path, nursery: trio.Nursery) -> Backends:
    return Backends(path, nursery)


async def ask(driver: Driver, replies: list[bytes], data: bytes, queue: int = 0) -> None:
    replies.append(await driver.request(data, len(data), queue))


@either_way
async def test_next_backend_answers_what_the_last_one_held(
    backends: Backends, path: Path, in_band: bool
) -> None:
    holding, replies = Holding(), list[bytes]()
    await backends.start(holding)
    async with connect(path, in_band=in_band) as link, Driver(link) as driver:
        async with trio.open_nursery() as asking:
            for number in range(6):
                asking.start_soon(ask, driver, replies, b"abc%d" % number, number % 2)
            await holding.has(6)
            await backends.stop()
            assert not link.gone
            await backends.start(Upper(16, 16))

        assert sorted(replies) == [b"ABC%d" % number for number in range(6)]
        assert [queue.in_flight for queue in driver.statistics()] == [0, 0]


@either_way
async def test_request_made_between_two_backends_is_answered_by_the_second(
    backends: Backends, path: Path, in_band: bool
) -> None:
    replies = list[bytes]()
    await backends.start(Upper(16))
    async with (
        connect(path, in_band=in_band) as link,
        Driver(link) as driver,
        trio.open_nursery() as asking,
    ):
        await backends.stop()
        asking.start_soon(ask, driver, replies, b"late")
        await trio.testing.wait_all_tasks_blocked()
        await backends.start(Upper(16))

    assert replies == [b"LATE"]


async def test_disk_is_written_across_many_backends(
    backends: Backends, path: Path, tmp_path: Path, rng: random.Random
) -> None:
    data = rng.randbytes(1 << 16)
    disk = image(tmp_path / "disk", len(data))
    parts = [(at // 512, data[at : at + 512]) for at in range(0, len(data), 512)]
    written: list[int] = []

    async def write(driver: BlockDriver) -> None:
        for first in range(0, len(parts), 8):
            await driver.write_many(parts[first : first + 8])
            written.append(first)

    device = Block(disk)
    await backends.start(device)
    async with connect(path) as link, BlockDriver(link) as driver, trio.open_nursery() as writing:
        writing.start_soon(write, driver)
        while len(written) < len(parts) // 8:
            await backends.stop()
            device.close()
            device = Block(disk)
            await backends.start(device)
            wanted = len(written) + 1 + rng.randrange(3)
            while len(written) < min(wanted, len(parts) // 8):
                await trio.lowlevel.checkpoint()
    device.close()

    assert content(disk) == data


ON_THE_WAY = [
    Request.SET_FEATURES,
    Request.SET_STATUS,
    Request.ADD_MEM_REG,
    Request.GET_INFLIGHT_FD,
    Request.SET_INFLIGHT_FD,
    Request.SET_VRING_NUM,
    Request.SET_VRING_BASE,
    Request.SET_VRING_ADDR,
    Request.SET_VRING_CALL,
    Request.SET_VRING_KICK,
    Request.SET_VRING_ENABLE,
]


@pytest.mark.parametrize("leaves_at", ON_THE_WAY, ids=lambda request: request.name)
async def test_backend_may_go_away_while_a_driver_sets_it_up(
    backends: Backends, path: Path, leaves_at: Request
) -> None:
    protocol = Has.REPLY_ACK | Has.STATUS | Has.MQ | Has.INFLIGHT_SHMFD | Has.CONFIGURE_MEM_SLOTS
    scripted = Scripted(path, protocol, {Request.GET_MAX_MEM_SLOTS: Number(8)}, leaves_at=leaves_at)
    replies = list[bytes]()

    async def drive(link: VhostUserLink) -> None:
        async with Driver(link) as driver:
            for queue in range(2):
                await ask(driver, replies, b"hello", queue)

    async with trio.open_nursery() as driving:
        left = trio.Event()

        async def run() -> None:
            async with connect(path) as link, trio.open_nursery() as inner:
                inner.start_soon(drive, link)
                await link.session.ended.wait()
                left.set()

        async with scripted.listening():
            driving.start_soon(run)
            await left.wait()
        await backends.start(Upper(16, 16))

    assert replies == [b"HELLO"] * 2


async def test_reset_between_two_backends_gives_up_what_was_in_flight(
    backends: Backends, path: Path
) -> None:
    holding = Holding()
    await backends.start(holding)
    async with connect(path) as link, Driver(link) as driver:
        async with trio.open_nursery() as asking:
            asking.start_soon(raises_broken, driver)
            await holding.has(1)
            await backends.stop()
            asking.start_soon(driver.reset)
            await trio.testing.wait_all_tasks_blocked()
            await backends.start(Upper(16, 16))

        assert await driver.request(b"again", 5) == b"AGAIN"


async def raises_broken(driver: Driver) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await driver.request(b"lost", 4)


async def test_driver_is_left_without_a_backend(backends: Backends, path: Path) -> None:
    await backends.start(Upper(16))
    before = len(os.listdir("/proc/self/fd"))
    async with connect(path) as link, Driver(link) as driver:
        assert await driver.request(b"hello", 5) == b"HELLO"
        await backends.stop()
        await link.session.ended.wait()

    assert len(os.listdir("/proc/self/fd")) == before - 1  # the listener's


async def test_many_backends_leave_nothing_open(backends: Backends, path: Path) -> None:
    counts = list[int]()
    await backends.start(Upper(16))
    async with connect(path) as link, Driver(link) as driver:
        for _ in range(5):
            assert await driver.request(b"hello", 5) == b"HELLO"
            await trio.testing.wait_all_tasks_blocked()
            counts.append(len(os.listdir("/proc/self/fd")))
            await backends.stop()
            await backends.start(Upper(16))

    assert len(set(counts)) == 1


async def test_backend_of_another_kind_ends_the_link(
    backends: Backends, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class More(Upper):
        features = 1

    caplog.set_level(logging.WARNING)
    await backends.start(More(16))
    async with connect(path) as link, Driver(link) as driver:
        await backends.stop()
        await backends.start(Upper(16))
        with pytest.raises(trio.BrokenResourceError):
            await driver.request(b"hello", 5)

    assert "no backend takes over: another device than before" in caplog.text


async def test_backend_that_keeps_no_table_cannot_be_outlived(path: Path) -> None:
    scripted = Scripted(path, Has.REPLY_ACK)
    async with scripted.listening():
        with pytest.raises(NegotiationError, match="inflight descriptors"):
            await connect(path).__aenter__()


async def test_table_is_not_asked_for_where_nobody_takes_over(path: Path) -> None:
    scripted = Scripted(path, Has.REPLY_ACK | Has.INFLIGHT_SHMFD)
    async with scripted.listening(), connect(path, reconnect=False) as link, Driver(link):
        pass

    assert Request.GET_INFLIGHT_FD not in scripted.asked


async def test_thread_without_trio_outlives_a_backend_too(backends: Backends, path: Path) -> None:
    holding = Holding()

    def drive(link: VhostUserLink) -> None:
        with SyncDriver(link) as driver:
            assert driver.request(b"hello", 5) == b"HELLO"

    await backends.start(holding)
    async with connect(path) as link, trio.open_nursery() as driving:
        driving.start_soon(trio.to_thread.run_sync, drive, link)
        await holding.has(1)
        await backends.stop()
        await backends.start(Upper(16, 16))
