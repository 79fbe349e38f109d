"""Configuration space, status and the back channel over vhost-user."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import Block, Device, Request as DeviceRequest
from paravirt.transport import NegotiationError, Status
from paravirt.transport.vhost_user import (
    BackendRequest,
    ProtocolFeature,
    Request,
    payloads as p,
)
from paravirt.transport.wire.block import WRITEBACK_AT, BlockConfig
from tests.disks import image
from tests.hostside.frontend import Frontend, attached, back_channel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG | ProtocolFeature.BACKEND_REQ


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Block]:
    with Block(image(tmp_path / "disk.img", 1 << 20)) as block:
        yield block


class Taker(Device):
    """Take requests and keep them until told."""

    device_id = 42
    queue_sizes = (16,)
    taken_queues = (0,)

    def __init__(self) -> None:
        self.taken: list[DeviceRequest] = []
        self.stopped = 0

    async def run(self, nursery: trio.Nursery) -> None:
        del nursery
        try:
            while True:
                self.taken.append(await self.queue(0).take())
        except trio.ClosedResourceError:
            self.stopped += 1


async def get(frontend: Frontend, offset: int, size: int) -> bytes:
    answer = await frontend.ask(Request.GET_CONFIG, p.ConfigAccess(offset, 0, bytes(size)))
    assert isinstance(answer, p.ConfigAccess)
    return answer.data


async def put(frontend: Frontend, offset: int, data: bytes, flags: int = 0) -> None:
    await frontend.ask(Request.SET_CONFIG, p.ConfigAccess(offset, flags, data))


async def test_space_is_read_at_any_time(disk: Block) -> None:
    """2.5.2."""
    async with attached(disk) as frontend:
        await frontend.agree(int(CONFIG))

        assert await get(frontend, 0, 8) == (2048).to_bytes(8, "little")
        assert await get(frontend, 4, 57) == disk.config.to_bytes()[4:61].ljust(57, b"\0")


async def test_space_reads_as_zeros_beyond_its_end(disk: Block) -> None:
    size = len(disk.config.to_bytes())
    async with attached(disk) as frontend:
        await frontend.agree(int(CONFIG))

        assert await get(frontend, size, 8) == bytes(8)
        with pytest.raises(NegotiationError):
            await get(frontend, 1 << 20, 8)


async def test_writable_field_is_written(disk: Block) -> None:
    async with attached(disk) as frontend:
        await frontend.bring_up(CONFIG)
        await put(frontend, WRITEBACK_AT, b"\0")

        assert isinstance(disk.config, BlockConfig)
        assert disk.config.writeback == 0
        assert await get(frontend, WRITEBACK_AT, 1) == b"\0"


async def test_other_field_is_not_written(disk: Block) -> None:
    async with attached(disk) as frontend:
        await frontend.bring_up(CONFIG)

        with pytest.raises(NegotiationError):
            await put(frontend, 0, bytes(8))
        frontend.channel.acknowledges = False
        await put(frontend, 0, bytes(8))  # a guest's mistake does not cut it off
        assert await get(frontend, 0, 8) == (2048).to_bytes(8, "little")


async def test_migration_may_bring_only_the_same(disk: Block) -> None:
    async with attached(disk) as frontend:
        await frontend.bring_up(CONFIG)
        await put(frontend, 0, (2048).to_bytes(8, "little"), p.ConfigAccess.MIGRATION)

        with pytest.raises(NegotiationError):
            await put(frontend, 0, bytes(8), p.ConfigAccess.MIGRATION)


async def test_change_is_told_over_the_back_channel(disk: Block, tmp_path: Path) -> None:
    async with attached(disk) as frontend:
        await frontend.bring_up(CONFIG)
        back = await back_channel(frontend)
        image(tmp_path / "disk.img", 2 << 20)
        disk.resize()

        message = await back.receive()
        assert message is not None
        assert message.header.request == BackendRequest.CONFIG_CHANGE_MSG
        assert await get(frontend, 0, 8) == (4096).to_bytes(8, "little")
        back.close()


async def test_back_channel_nobody_reads_holds_up_nobody(disk: Block) -> None:
    async with attached(disk) as frontend:
        await frontend.bring_up(CONFIG)
        back = await back_channel(frontend)
        for turn in range(2000):
            await put(frontend, WRITEBACK_AT, bytes([turn % 2]))

        assert await get(frontend, WRITEBACK_AT, 1) == b"\1"
        back.close()


async def test_back_channel_that_its_giver_makes_blocking_holds_up_nobody(disk: Block) -> None:
    """What was sent is the same open file for both, so that either can change its flags."""
    ours, theirs = socket.socketpair()
    async with attached(disk) as frontend:
        await frontend.bring_up(CONFIG)
        with ours, theirs:
            await frontend.ask(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
            theirs.setblocking(True)
            for turn in range(2000):
                await put(frontend, WRITEBACK_AT, bytes([turn % 2]))

            assert await get(frontend, WRITEBACK_AT, 1) == b"\1"


async def test_file_as_back_channel_is_refused(disk: Block) -> None:
    async with attached(disk) as frontend:
        await frontend.agree(int(CONFIG))

        with pytest.raises(NegotiationError):
            await frontend.ask(Request.SET_BACKEND_REQ_FD, fds=[frontend.region.fd])


async def test_device_that_needs_a_reset_says_so(disk: Block) -> None:
    """2.1.2."""
    async with attached(disk) as frontend:
        await frontend.bring_up(CONFIG | ProtocolFeature.STATUS)
        back = await back_channel(frontend)
        owner = disk.server
        assert owner is not None
        owner._link.need_reset()  # type: ignore[attr-defined]

        assert await back.receive() is not None
        assert await frontend.number(Request.GET_STATUS) & Status.DEVICE_NEEDS_RESET
        await frontend.ask(Request.SET_STATUS, p.Number(0))
        assert not await frontend.number(Request.GET_STATUS)
        back.close()


async def test_features_that_cannot_be_are_not_confirmed(disk: Block) -> None:
    """2.2.2."""
    async with attached(disk) as frontend:
        await frontend.agree(int(CONFIG | ProtocolFeature.STATUS))
        await frontend.ask(Request.SET_FEATURES, p.Number(1 << 9))
        await frontend.ask(Request.SET_STATUS, p.Number(11))

        assert await frontend.number(Request.GET_STATUS) == 3


async def test_queue_that_is_taken_from_drains_too() -> None:
    device = Taker()
    async with attached(device) as frontend, trio.open_nursery() as nursery:
        await frontend.bring_up()
        frontend.offer(b"held")
        while not device.taken:
            await trio.lowlevel.checkpoint()
        bases: list[int] = []

        async def stop() -> None:
            bases.append(await frontend.base())

        nursery.start_soon(stop)
        while not device.stopped:
            await trio.lowlevel.checkpoint()
        assert not bases
        device.taken[0].reply(b"done")
        while not bases:
            await trio.lowlevel.checkpoint()

    assert bases == [1]
