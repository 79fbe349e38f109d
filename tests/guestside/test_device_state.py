"""A device's state goes from one backend to the next, by our own frontend.

vhost-user, "Migrating back-end state".
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.guestside.block import BlockDriver
from paravirt.guestside.vhost_user import VhostUserLink, connect_vhost_user
from paravirt.hostside import Block
from paravirt.hostside.vhost_user import serve_vhost_user
from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import ProtocolFeature, Request, StatePipe, payloads as p
from tests.disks import image
from tests.hostside.frontend import attached, open_files
from tests.hostside.serving import Echo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

SIZE = 1 << 20
STATE = ProtocolFeature.DEVICE_STATE


@asynccontextmanager
async def linked(disk: Block, path: Path) -> AsyncGenerator[VhostUserLink]:
    """Serve a disk, and give a frontend's link to it."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_vhost_user, disk, str(path))
        async with connect_vhost_user(path, device_id=2) as link:
            yield link
        nursery.cancel_scope.cancel()


class Keeping(Echo):
    """Has a state of any size."""

    def __init__(self, state: bytes = b"") -> None:
        self.state = state

    def save_state(self) -> bytes:
        return self.state

    def load_state(self, state: bytes) -> None:
        if state == b"broken":
            raise RuntimeError("a bug")
        self.state = state


async def test_disk_goes_on_in_another_backend_as_it_was(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", SIZE)
    with Block(path, migratable=True) as one, Block(path, migratable=True) as two:
        async with linked(one, tmp_path / "1.sock") as source:
            async with BlockDriver(source) as driver:
                await driver.write(0, b"1" * 512)
                await driver.set_writeback(False)
            state = await source.save_state()
        async with linked(two, tmp_path / "2.sock") as target:
            await target.load_state(state)
            async with BlockDriver(target) as driver:
                assert (await driver.refresh()).writeback == 0
                assert await driver.read(0, 512) == b"1" * 512
                await driver.write(1, b"2" * 512)


@pytest.mark.parametrize("other", ["smaller", "serial"])
async def test_disk_that_is_not_the_same_is_refused_and_stays_as_it_was(
    tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = (SIZE, SIZE // 2 if other == "smaller" else SIZE)
    paths = [image(tmp_path / f"{n}.img", size) for n, size in enumerate(sizes)]
    with Block(paths[0], writeback=False) as one, Block(paths[1], serial=other) as two:
        async with linked(two, tmp_path / "2.sock") as target:
            with pytest.raises(NegotiationError, match="could not be loaded"):
                await target.load_state(b"no state at all")
            async with linked(one, tmp_path / "1.sock") as source:
                state = await source.save_state()
            with pytest.raises(NegotiationError, match="could not be loaded"):
                await target.load_state(state)
            async with BlockDriver(target) as driver:
                assert (await driver.refresh()).writeback == 1

    assert "the disk that comes has" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 65536, 1_000_000])
async def test_state_of_any_size_comes_whole(size: int) -> None:
    """A pipe has room for 64 KiB."""
    saved, loaded, document = Keeping(os.urandom(size)), Keeping(), b""
    for device, direction in (saved, p.StateDirection.SAVE), (loaded, p.StateDirection.LOAD):
        async with attached(device) as frontend:
            await frontend.agree(int(STATE))
            ours, theirs = os.pipe()
            if direction is p.StateDirection.LOAD:
                ours, theirs = theirs, ours
            await frontend.ask(Request.SET_DEVICE_STATE_FD, p.StateTransfer(direction, 0), [theirs])
            os.close(theirs)
            with StatePipe(ours) as pipe:
                if direction is p.StateDirection.SAVE:
                    document = await pipe.receive()
                else:
                    await pipe.send(document)
            assert await frontend.number(Request.CHECK_DEVICE_STATE) == 0

    assert loaded.state == saved.state


async def test_state_goes_through_a_file_in_memory_too() -> None:
    saved, loaded = Keeping(b"state"), Keeping()
    file = os.memfd_create("state")
    for device, direction in (saved, 0), (loaded, 1):
        os.lseek(file, 0, os.SEEK_SET)
        async with attached(device) as frontend:
            await frontend.agree(int(STATE))
            await frontend.ask(Request.SET_DEVICE_STATE_FD, p.StateTransfer(direction, 0), [file])
            assert await frontend.number(Request.CHECK_DEVICE_STATE) == 0
    os.close(file)

    assert loaded.state == b"state"


async def transferred(device: Keeping, fd: int, direction: int = 1, phase: int = 0) -> int:
    """Return how a backend answers the start of a transfer."""
    async with attached(device) as frontend:
        await frontend.agree(int(STATE))
        transfer = p.StateTransfer(direction, phase)
        answer = await frontend.ask(Request.SET_DEVICE_STATE_FD, transfer, [fd])
        assert isinstance(answer, p.StateAnswer)
        assert await frontend.number(Request.CHECK_DEVICE_STATE)
        return answer.value & 0xFF


async def test_transfer_that_cannot_be_is_refused(tmp_path: Path) -> None:
    before = open_files()
    with (tmp_path / "file").open("wb") as file:
        assert await transferred(Keeping(), file.fileno())
    reading, writing = os.pipe()
    assert await transferred(Keeping(), reading, direction=2)
    assert await transferred(Keeping(), reading, phase=1)
    os.close(writing)
    assert not await transferred(Keeping(), reading)  # nothing is no document
    os.close(reading)

    assert open_files() == before


async def test_check_without_a_transfer_tells_of_an_error() -> None:
    async with attached(Keeping()) as frontend:
        await frontend.agree(int(STATE))

        assert await frontend.number(Request.CHECK_DEVICE_STATE)


async def test_state_without_an_end_is_not_read_to_it(caplog: pytest.LogCaptureFixture) -> None:
    file = os.memfd_create("state")
    os.ftruncate(file, 1 << 40)
    assert not await transferred(Keeping(), file)
    os.close(file)

    assert "more than 16777216 bytes" in caplog.text


async def test_reader_that_goes_away_is_an_error_and_not_the_end() -> None:
    async with attached(Keeping(bytes(1_000_000))) as frontend:
        await frontend.agree(int(STATE))
        reading, writing = os.pipe()
        await frontend.ask(Request.SET_DEVICE_STATE_FD, p.StateTransfer(0, 0), [writing])
        os.close(writing)
        os.close(reading)

        assert await frontend.number(Request.CHECK_DEVICE_STATE)
        await frontend.bring_up(ProtocolFeature.REPLY_ACK)
        assert await frontend.echo(b"hello") == b"hello"


async def test_peer_that_makes_its_pipe_block_holds_up_nobody() -> None:
    """O_NONBLOCK is the peer's as well; and it takes what was there to be read."""
    async with attached(Keeping(bytes(1_000_000))) as frontend:
        await frontend.agree(int(STATE))
        reading, writing = os.pipe()
        await frontend.ask(Request.SET_DEVICE_STATE_FD, p.StateTransfer(0, 0), [writing])
        os.set_blocking(writing, True)
        await trio.testing.wait_all_tasks_blocked()

        assert await frontend.number(Request.GET_FEATURES)
        os.close(reading)
        os.close(writing)
