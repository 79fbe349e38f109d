"""A real QEMU attached to our disk, with no guest kernel: its virtio-mmio registers are ours."""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import Block
from paravirt.hostside.vhost_user import serve_vhost_user
from paravirt.transport import Feature
from tests.disks import content, image
from tests.vm.mmio_disk import MmioDisk
from tests.vm.qtest import machine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.qemu

ALL = (1 << 64) - 1
RING = Feature.VERSION_1 | Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX
SIZE = 1 << 20


def options(socket: str, chardev: str = "", queues: int = 1) -> list[str]:
    """Return how QEMU is told of a disk at a socket."""
    device = f"vhost-user-blk,chardev=c0,num-queues={queues}"
    return ["-chardev", f"socket,id=c0,path={socket}{chardev}", "-device", device]


@asynccontextmanager
async def attached(
    folder: Path, *, queues: int = 1, chardev: str = "", connect: bool = False
) -> AsyncGenerator[tuple[MmioDisk, Path]]:
    """Serve a disk to QEMU; gives its driver, and its image."""
    path = image(folder / "disk.img", bytes(range(256)) * (SIZE // 256))
    socket = str(folder / "disk.sock")
    async with trio.open_nursery() as nursery:
        with Block(path, queues=queues) as disk:
            await nursery.start(partial(serve_vhost_user, disk, socket, connect=connect))
            async with machine(folder, *options(socket, chardev, queues)) as bus:
                yield await MmioDisk.find(bus), path
            nursery.cancel_scope.cancel()


async def test_reads_what_the_image_has_and_writes_to_it(tmp_path: Path) -> None:
    async with attached(tmp_path) as (disk, path):
        await disk.start(ALL)
        assert await disk.capacity() == SIZE // 512
        assert await disk.read(3, 512) == bytes(range(256)) * 2
        await disk.write(7, b"q" * 1024)
        assert await disk.read(7, 1024) == b"q" * 1024

    assert content(path)[7 * 512 : 9 * 512] == b"q" * 1024


@pytest.mark.parametrize("without", [0, *RING & ~Feature.VERSION_1], ids=repr)
async def test_works_with_fewer_features(tmp_path: Path, without: int) -> None:
    async with attached(tmp_path) as (disk, _):
        features = await disk.start(ALL & ~without)
        data = await disk.read(0, 4096)

    assert not features & without
    assert data == bytes(range(256)) * 16


async def test_works_again_after_each_reset(tmp_path: Path) -> None:
    async with attached(tmp_path) as (disk, _):
        for turn in range(3):
            await disk.start(ALL if turn % 2 else Feature.VERSION_1)
            await disk.write(turn, bytes([turn]) * 512)
            assert await disk.read(turn, 512) == bytes([turn]) * 512


async def test_every_queue_works(tmp_path: Path) -> None:
    async with attached(tmp_path, queues=4) as (disk, _):
        await disk.start(ALL, queues=4)
        for queue in range(4):
            await disk.write(queue, bytes([queue]) * 512, queue)
        for queue in range(4):
            assert await disk.read(queue, 512, 3 - queue) == bytes([queue]) * 512


async def test_connects_to_a_qemu_that_listens(tmp_path: Path) -> None:
    async with attached(tmp_path, chardev=",server=on,wait=on", connect=True) as (disk, _):
        await disk.start(ALL)

        assert await disk.read(0, 512) == bytes(range(256)) * 2


async def serve_until(
    scope: trio.CancelScope,
    ended: trio.Event,
    path: Path,
    socket: str,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an image until the scope is cancelled."""
    with scope, Block(path) as disk:
        await serve_vhost_user(disk, socket, task_status=task_status)
    ended.set()


async def test_goes_on_after_the_backend_was_started_again(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", bytes(SIZE))
    socket = str(tmp_path / "disk.sock")
    scope, ended = trio.CancelScope(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_until, scope, ended, path, socket)
        async with machine(tmp_path, *options(socket, ",reconnect=1")) as bus:
            disk = await MmioDisk.find(bus)
            await disk.start(ALL)
            await disk.write(0, b"r" * 512)
            scope.cancel()
            await ended.wait()
            await nursery.start(serve_until, trio.CancelScope(), ended, path, socket)
            await disk.write(1, b"r" * 512)
        nursery.cancel_scope.cancel()

    assert content(path)[: 2 * 512] == b"r" * 1024


@asynccontextmanager
async def running(*command: str) -> AsyncGenerator[tuple[trio.Process, str]]:
    """Run Python with these arguments until it is left; gives what it says at the start."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.receive_some()).decode()
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def test_example_serves_a_disk(tmp_path: Path) -> None:
    path = str(image(tmp_path / "disk.img", b"e" * SIZE))
    socket = str(tmp_path / "disk.sock")
    example = running("examples.qemu_block", path, socket)
    async with example as (_, said), machine(tmp_path, *options(socket)) as bus:
        disk = await MmioDisk.find(bus)
        await disk.start(ALL)
        assert await disk.read(0, 512) == b"e" * 512

    assert socket in said


async def test_command_serves_a_disk_until_sigterm(tmp_path: Path) -> None:
    path = str(image(tmp_path / "disk.img", b"c" * SIZE))
    socket = str(tmp_path / "disk.sock")
    command = ["paravirt", "serve", "block", path, "--read-only", "--socket-path", socket]
    async with running(*command) as (process, said), machine(tmp_path, *options(socket)) as bus:
        disk = await MmioDisk.find(bus)
        await disk.start(ALL)
        assert await disk.read(8, 512) == b"c" * 512

    assert f"path={socket}" in said
    assert process.returncode == 0
    assert not (tmp_path / "disk.sock").exists()


async def test_command_connects_to_a_qemu_that_listens(tmp_path: Path) -> None:
    path = str(image(tmp_path / "disk.img", b"s" * SIZE))
    socket = str(tmp_path / "qemu.sock")
    command = ["paravirt", "serve", "block", path, "--socket-path", socket, "--connect"]
    chardev = ",server=on,wait=on"
    async with (
        running(*command) as (process, said),
        machine(tmp_path, *options(socket, chardev)) as bus,
    ):
        disk = await MmioDisk.find(bus)
        await disk.start(ALL)
        assert await disk.read(8, 512) == b"s" * 512

    assert f"path={socket},server=on" in said
    assert process.returncode == 0
