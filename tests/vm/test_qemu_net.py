"""QEMU's network frontend, which has an order of messages of its own, with no guest kernel.

It enables a queue before it has said what the features are, and never disables it when it stops.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.hostside import NullNet
from paravirt.hostside.vhost_user import serve_vhost_user
from paravirt.transport.wire.net import DEVICE_ID, HEADER_BYTES, PAIRS, NetFeature
from tests.vm.mmio import BUFFERS, WRITE, MmioDevice
from tests.vm.qtest import machine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.qemu

ALL = (1 << 64) - 1
TRANSMIT = 1
ANSWER = BUFFERS + 0x1000


class MmioCard(MmioDevice):
    """One network card."""

    device_id = DEVICE_ID

    async def transmit(self, size: int, queue: int = TRANSMIT) -> int:
        """Send a packet; returns its used length."""
        return await self.exchange(queue, (BUFFERS, HEADER_BYTES + size, 0))

    async def command(self, command: bytes, queue: int) -> bytes:
        """Give a command on the control queue."""
        await self.bus.write(BUFFERS, command)
        await self.exchange(
            queue, (BUFFERS, 2, 0), (BUFFERS + 2, len(command) - 2, 0), (ANSWER, 1, WRITE)
        )
        return await self.bus.read(ANSWER, 1)


@asynccontextmanager
async def attached(folder: Path, card: NullNet, pairs: int = 1) -> AsyncGenerator[MmioCard]:
    """Serve a card to QEMU; gives its driver."""
    path = str(folder / "net.sock")
    more = ",mq=on" if pairs > 1 else ""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_vhost_user, card, path)
        options = [
            *("-chardev", f"socket,id=c0,path={path}", "-netdev"),
            *(f"vhost-user,id=n0,chardev=c0,queues={pairs}", "-device"),
            f"virtio-net-device,netdev=n0,mac=52:54:00:12:34:56{more}",
        ]
        async with machine(folder, *options) as bus:
            yield await MmioCard.find(bus)
        nursery.cancel_scope.cancel()


async def test_packets_come_back_before_and_after_a_reset(tmp_path: Path) -> None:
    card = NullNet()
    async with attached(tmp_path, card) as driver:
        for turn in range(2):
            await driver.start(ALL & ~int(NetFeature.CTRL_VQ), queues=2)
            for size in 60, 1500:
                assert await driver.transmit(size) == 0
            assert card.statistics().queues[TRANSMIT].completed == 2, turn


async def test_every_pair_of_queues_runs(tmp_path: Path) -> None:
    """QEMU has the control queue itself, and enables the pairs that the driver asks for."""
    card = NullNet(pairs=2)
    async with attached(tmp_path, card, pairs=2) as driver:
        features = await driver.start(ALL, queues=5)
        assert features & NetFeature.MQ
        assert await driver.command(b"\4\0" + PAIRS.pack(2), 4) == b"\0"
        assert await driver.transmit(60, 1) == await driver.transmit(60, 3) == 0
        done = {row.queue: row.completed for row in card.statistics().queues}

    assert (done[1], done[3]) == (1, 1)
