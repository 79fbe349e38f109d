"""QEMU migrates a guest from one backend to another while it uses its disk."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import Block
from paravirt.hostside.vhost_user import serve_vhost_user
from tests.cli.serve.serving import served_by_command
from tests.disks import content, image
from tests.vm.moving_disk import MovingDisk
from tests.vm.qmp import Qmp, monitor, monitored
from tests.vm.qtest import machine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.vm.qtest import Qtest

    Serve = Callable[[Path, Path], AbstractAsyncContextManager[None]]

pytestmark = pytest.mark.qemu

ALL = (1 << 64) - 1
BLOCK = 4096
LEAST = 100
"""Blocks before the migration, as many after it, and at least as many while it goes on."""
MEMORY = 64 << 20
SLOTS = 0x400000
"""Where in guest memory the disk puts what is read from it, a page a block: pages that QEMU copies
early, so that it has to be told that they were written again."""
SLOW, FAST = 1 << 20, 1 << 30
"""Bytes a second: so slow that it does not end under load, and so fast that it does."""


@asynccontextmanager
async def served_here(path: Path, socket: Path) -> AsyncGenerator[None]:
    """Serve an image in this process."""
    async with trio.open_nursery() as nursery:
        with Block(path, migratable=True) as disk:
            await nursery.start(serve_vhost_user, disk, socket)
            yield
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def side(
    folder: Path, path: Path, serve: Serve, *options: str
) -> AsyncGenerator[tuple[Qtest, Qmp]]:
    """Run one backend and one QEMU on an image."""
    socket, monitor_at = folder / "disk.sock", str(folder / "qmp.sock")
    attached = ["-chardev", f"socket,id=c0,path={socket}", "-device", "vhost-user-blk,chardev=c0"]
    options = (*attached, "-qmp", f"unix:{monitor_at}", *options)
    async with (
        serve(path, socket),
        monitored(monitor_at) as listener,
        machine(folder, *options) as bus,
        monitor(listener) as qmp,
    ):
        yield bus, qmp


def folders(parent: Path) -> list[Path]:
    """Make a folder for each side."""
    made = [parent / name for name in ("one", "two")]
    for folder in made:
        folder.mkdir()
    return made


class Load:
    """Writes blocks, and reads each into guest memory, where it stays."""

    def __init__(self, disk: MovingDisk) -> None:
        self.disk = disk
        self.done = 0

    def block(self, index: int) -> bytes:
        return (index + 1).to_bytes(8, "little") * (BLOCK // 8)

    async def run(self, blocks: float) -> None:
        """Go on until so many blocks are done."""
        while self.done < blocks:
            at, data = self.done * BLOCK, self.block(self.done)
            await self.disk.write(at, data)
            assert await self.disk.read(at, BLOCK, SLOTS + at) == data
            self.done += 1

    async def verify(self) -> None:
        """Check what the guest's memory has of all that it read."""
        for index in range(self.done):
            found = await self.disk.bus.read(SLOTS + index * BLOCK, BLOCK)
            assert found == self.block(index), f"block {index} in guest memory"


async def migrate(qmp: Qmp, where: str, load: Load) -> None:
    """Migrate, and stop the load when it is through; it copies most while the load runs."""
    await qmp.ask("migrate-set-parameters", **{"max-bandwidth": SLOW, "downtime-limit": 1})
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, math.inf)
            await qmp.ask("migrate", uri=where)
            enough = math.inf
            while (now := await qmp.ask("query-migrate"))["status"] != "completed":
                assert now["status"] in {"setup", "active", "device"}, now
                remaining = now.get("ram", {}).get("remaining", math.inf)
                if remaining < MEMORY - SLOTS - LEAST * BLOCK and enough == math.inf:
                    enough = load.done + LEAST  # what is read from now on has to be copied again
                if load.done > enough:
                    await qmp.ask("migrate-set-parameters", **{"max-bandwidth": FAST})
            scope.cancel()


def served_apart(path: Path, socket: Path) -> AbstractAsyncContextManager[None]:
    """Serve an image by the command line."""
    return served_by_command(path, socket, "--migratable")


@pytest.mark.parametrize("serve", [served_here, served_apart])
async def test_guest_without_a_kernel_keeps_all_that_its_disk_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Serve
) -> None:
    """What a backend writes to guest memory behind QEMU's back is copied: dirty log, used ring."""
    path = image(tmp_path / "disk.img", 32 << 20)
    where = f"unix:{tmp_path}/migration.sock"
    one, two = folders(tmp_path)
    async with side(one, path, serve) as (bus, qmp):
        load = Load(await MovingDisk.find(bus))
        await load.disk.start(ALL)
        await load.run(LEAST)
        async with side(two, path, serve, "-incoming", where) as (other, _):
            await migrate(qmp, where, load)
            during = load.done - LEAST
            await load.disk.go_on(other)
            await load.verify()
            await load.run(load.done + LEAST)
            await load.verify()

    assert content(path).startswith(b"".join(map(load.block, range(load.done))))
    with capsys.disabled():
        print(
            f" migrated under write load: {LEAST} blocks written before, {during} during,"
            f" {LEAST} after, all verified ",
            end="",
        )
