"""Our disk is killed by SIGKILL while a QEMU writes to it; QEMU finds the next by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.disks import content, image
from tests.vm.forks import forks
from tests.vm.ledger import Ledger
from tests.vm.mmio_load import MmioLoad
from tests.vm.qtest import machine

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.qemu

KILLS = 10
BLOCKS = 64
ALL = (1 << 64) - 1
LONGEST = 0.1
"""Seconds to the kill, counted from the first write that the new backend did."""


async def keep_writing(disk: MmioLoad, rng: random.Random, stop: trio.Event) -> None:
    """Write to random blocks, until this is to stop and all has come back."""
    while disk.out or not stop.is_set():
        if not stop.is_set():
            await disk.offer(rng.sample(disk.idle, rng.randint(1, 8)))
        await disk.take()


@pytest.mark.patience(100)
async def test_ten_kills_lose_no_write_that_was_acknowledged(
    tmp_path: Path, rng: random.Random, say: Callable[[str], None]
) -> None:
    ledger, stop = Ledger(BLOCKS), trio.Event()
    path = image(tmp_path / "disk.img", ledger.image())
    where = tmp_path / "disk.sock"
    command = ["serve", "block", str(path), "--socket-path", str(where)]
    chardev = f"socket,id=c0,path={where},reconnect=1"
    device = "vhost-user-blk,chardev=c0"
    async with forks(command) as backend:
        async with machine(tmp_path, "-chardev", chardev, "-device", device) as bus:
            disk = await MmioLoad.find(bus)
            await disk.start(ALL)
            await disk.load(ledger)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_writing, disk, rng, stop)
                for _ in range(KILLS):
                    await ledger.goes_on()  # the handshake is over
                    await trio.sleep(rng.uniform(0, LONGEST))
                    await backend.kill()
                    ledger.kill(content(path))
                    await backend.start(command)
                await ledger.goes_on()
                stop.set()
        await backend.kill()

    say(ledger.finish(content(path)))
    assert (ledger.kills, ledger.lost, ledger.doubled, ledger.torn) == (KILLS, 0, 0, 0)
    assert ledger.in_flight
