"""Our disk is killed by SIGKILL at random moments while it is written to, and started again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.guestside.block import BlockDriver
from paravirt.guestside.vhost_user import VhostUserLink, connect_vhost_user
from tests.disks import content, image
from tests.vm.forks import forks
from tests.vm.ledger import SECTORS, Ledger

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator

KILLS = 100
BLOCKS = 128
WRITERS = 8
QUEUES = 2
LONGEST = 0.04
"""Seconds to the kill: on an idle machine the next backend serves after 15 ms."""


class Load:
    """Writers, each with blocks of its own, that go on until they are told to stop."""

    def __init__(self, driver: BlockDriver, ledger: Ledger, rng: random.Random) -> None:
        self.stopping = False
        self._driver = driver
        self._ledger = ledger
        self._rng = rng

    async def write(self, writer: int) -> None:
        """Write a few blocks at a time, and sometimes flush."""
        mine = range(writer, BLOCKS, WRITERS)
        while not self.stopping:
            numbers = self._rng.sample(mine, self._rng.randint(1, len(mine)))
            parts = [(number * SECTORS, self._ledger.send(number)) for number in numbers]
            await self._driver.write_many(parts)
            for number in numbers:
                self._ledger.acknowledge(number)
            if self._rng.random() < 0.1:
                await self._driver.flush()


class Returns:
    """Counts what came back on each queue, in the ring itself."""

    def __init__(self, link: VhostUserLink, monkeypatch: pytest.MonkeyPatch) -> None:
        self._link = link
        self._rings: dict[int, int] = {}
        set_queue = link.set_queue

        async def noted(queue: int, size: int, desc: int, driver: int, device: int) -> None:
            self._rings[queue] = device
            await set_queue(queue, size, desc, driver, device)

        monkeypatch.setattr(link, "set_queue", noted)

    def surplus(self, driver: BlockDriver) -> int:
        """Return how many more came back than were sent, when nothing is out."""
        surplus = 0
        for queue in driver.statistics():
            index = self._link.memory.read(self._rings[queue.queue] + 2, 2)
            surplus += (int.from_bytes(index, "little") - queue.requests) & 0xFFFF
        return surplus


@pytest.fixture(params=["storage", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Path]:
    """Return where the disk is: what it writes to memory, it may write in C."""
    if request.param == "storage":
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        yield Path(memory)


@pytest.mark.patience(110)
async def test_hundred_kills_lose_no_write_that_was_acknowledged(
    folder: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, say: Callable[[str], None]
) -> None:
    ledger = Ledger(BLOCKS)
    disk = image(folder / "disk.img", ledger.image())
    where = folder / "disk.sock"
    command = ["serve", "block", str(disk), "--socket-path", str(where), f"--queues={QUEUES}"]
    async with forks(command) as backend:
        async with connect_vhost_user(where, reconnect=True) as link:
            returns = Returns(link, monkeypatch)
            async with BlockDriver(link) as driver, trio.open_nursery() as nursery:
                load = Load(driver, ledger, rng)
                for writer in range(WRITERS):
                    nursery.start_soon(load.write, writer)
                for _ in range(KILLS):
                    if rng.random() < 0.8:  # else it may be killed before it serves
                        await ledger.goes_on()
                    await trio.sleep(rng.uniform(0, LONGEST))
                    await backend.kill()
                    ledger.kill(content(disk))
                    await backend.start(command)
                load.stopping = True
            ledger.doubled = returns.surplus(driver)
        await backend.kill()

    say(ledger.finish(content(disk)))
    assert (ledger.kills, ledger.lost, ledger.doubled, ledger.torn) == (KILLS, 0, 0, 0)
    assert ledger.in_flight > KILLS
