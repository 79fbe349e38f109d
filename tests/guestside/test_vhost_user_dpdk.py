"""Our driver over DPDK's vhost, which polls its rings and shares no code with QEMU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.guestside import Driver
from paravirt.guestside.vhost_user import connect_vhost_user
from paravirt.transport.vhost_user import ProtocolFeature

from .backend import network_card

if TYPE_CHECKING:
    import random
    from pathlib import Path

HEADER = 12  # bytes of virtio_net_hdr with VERSION_1 (5.1.6)
RECEIVE, TRANSMIT = 0, 1


async def echo(driver: Driver, rng: random.Random) -> tuple[list[bytes], list[bytes]]:
    """Send frames; returns them and those that came back."""
    sent = [bytes(HEADER) + rng.randbytes(60 + i) for i in range(8)]
    for _ in range(32):
        driver.submit(b"", 2048, RECEIVE)
    for frame in sent:
        driver.submit(frame, 0, TRANSMIT)
    came: list[bytes] = []
    while len(came) < len(sent):
        came += [frame for _, frame in await driver.reap(RECEIVE)]
    return sent, came


async def test_frames_come_back_before_and_after_a_reset(
    tmp_path: Path, rng: random.Random
) -> None:
    async with network_card(tmp_path / "net") as path, connect_vhost_user(path, queues=2) as link:
        assert ProtocolFeature.STATUS in link.session.agreed
        async with Driver(link) as driver:
            for _ in range(2):
                sent, came = await echo(driver, rng)
                assert came == sent
                await driver.reset()
