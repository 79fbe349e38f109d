"""DPDK's virtio-user as frontend: it polls, trusts what it reads, and so shows what others forgive.

It reads the used ring without a lock or a look back, and crashes on an index that was ever wrong.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import NullNet, Request
from paravirt.hostside.vhost_user import Terms, serve_vhost_user
from paravirt.transport.vhost_user import ProtocolFeature
from tests.hostside.serving import until
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

MANY = 2_000_000
FEW = 50_000
QUEUE = 256


class Card(NullNet):
    """Count what goes back, over all lives of the queues."""

    def __init__(self, *, pairs: int = 1) -> None:
        super().__init__(pairs=pairs, queue_size=QUEUE)
        self.returned = 0
        self._goal = 0
        self._there = trio.Event()

    def handle_batch(self, requests: Sequence[Request]) -> None:
        super().handle_batch(requests)
        self.returned += len(requests)
        if self.returned >= self._goal:
            self._there.set()

    async def reach(self, packets: int) -> None:
        """Wait until so many went back."""
        self._goal, self._there = packets, trio.Event()
        await self._there.wait()


@asynccontextmanager
async def generator(folder: Path, device: str) -> AsyncGenerator[Path]:
    """Run DPDK's packet generator over one device until this is left; gives what it says."""
    output = folder / "testpmd.txt"
    command = [
        *(
            need("dpdk-testpmd", "dpdk-dev"),
            "--lcores",
            "(0,1)@(0,1)",
            "--no-pci",
            "--no-huge",
            "-m",
        ),
        *("128", f"--file-prefix={folder.name}", "--vdev", device, "--", "--forward-mode=txonly"),
        *("--total-num-mbufs=4096", "--no-mlockall", "--stats-period", "1"),
    ]
    with output.open("wb") as file:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield output
        process.send_signal(signal.SIGINT)  # it stops the ports, and says what it counted
        assert await process.wait() == 0, output.read_text()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def sent_by(output: Path) -> int:
    """Return how many packets testpmd counted as sent."""
    pattern = r"Forward statistics for port 0.*?TX-packets: (\d+)"
    (sent,) = re.findall(pattern, output.read_text(), re.DOTALL)
    return int(sent)


def options(path: str, more: str = "") -> str:
    """Return how DPDK is told of a device at a path."""
    return f"net_virtio_user0,path={path},queue_size={QUEUE}{more}"


async def transmit(
    folder: Path, card: Card, packets: int, *, more: str = "", terms: Terms | None = None
) -> int:
    """Have testpmd send so many packets, and compare both sides' counts; returns its own."""
    path = str(folder / "net.sock")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_vhost_user, card, path, terms=terms))
        async with generator(folder, options(path, more)) as output:
            await card.reach(packets)
        nursery.cancel_scope.cancel()
    sent = sent_by(output)
    # What was in the ring at the end was sent, and not returned.
    assert packets <= sent - QUEUE <= card.returned <= sent
    return sent


@pytest.mark.patience(90)  # 2-7 s with a CPU for each side, and 20 s with half of one
async def test_more_than_two_million_packets_come_back_in_a_run(
    tmp_path: Path, say: Callable[[str], None]
) -> None:
    card, start = Card(), time.monotonic()
    sent = await transmit(tmp_path, card, MANY + 2 * QUEUE)

    seconds = time.monotonic() - start
    say(f"DPDK sent {sent} packets, {card.returned} came back, {seconds:.1f} s with its start")


async def test_without_a_status_rings_run_once_they_are_enabled(tmp_path: Path) -> None:
    """DPDK then leaves out what it else says between features and memory, and at the end."""
    await transmit(tmp_path, Card(), FEW, terms=Terms(never=ProtocolFeature.STATUS))


async def test_every_pair_of_queues_may_run(tmp_path: Path) -> None:
    await transmit(tmp_path, Card(pairs=2), FEW, more=",queues=2")


async def serve_until(
    scope: trio.CancelScope,
    card: Card,
    path: str,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Connect and serve a card until the scope is cancelled."""
    with scope:
        await serve_vhost_user(card, path, connect=True, task_status=task_status)


async def test_goes_on_after_the_backend_came_back(tmp_path: Path) -> None:
    """DPDK listens; to a backend that comes back it first says to stop, and it has its base wrong.

    It names available index 0 of a ring that it goes on with.
    """
    path, card = str(tmp_path / "net.sock"), Card()
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_until, scope, card, path)
        async with generator(tmp_path, options(path, ",server=1")) as output:
            await card.reach(FEW)
            scope.cancel()
            await until(lambda: card.server is None)
            before = card.returned
            await nursery.start(serve_until, trio.CancelScope(), card, path)
            await card.reach(before + FEW)
        nursery.cancel_scope.cancel()

    # What the first one had taken and not published is done again.
    assert sent_by(output) - QUEUE <= card.returned <= sent_by(output) + QUEUE
