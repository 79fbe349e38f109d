"""The network card without a network."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from paravirt.guestside import Driver
from paravirt.hostside import NullNet, serve
from paravirt.transport import NegotiationError, loopback
from paravirt.transport.vhost_user import ProtocolFeature, Request, payloads as p
from paravirt.transport.wire.net import HEADER_BYTES, NetConfig, NetFeature
from tests.hostside.frontend import attached
from tests.hostside.serving import Echo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import trio

RECEIVE, TRANSMIT = 0, 1
PACKET = bytes(HEADER_BYTES + 60)
SET_PAIRS = b"\4\0"
OK, ERR = b"\0", b"\1"
NET_ONLY = ProtocolFeature.RARP | ProtocolFeature.MTU
AGREED = ProtocolFeature.REPLY_ACK | NET_ONLY


class Bare(Driver):
    """Knows the control queue, and nothing else of cards."""

    wanted_features = int(NetFeature.CTRL_VQ)


class Several(Driver):
    """Knows several pairs of queues too."""

    wanted_features = int(NetFeature.CTRL_VQ | NetFeature.MQ)


@asynccontextmanager
async def driven(
    nursery: trio.Nursery, card: NullNet, kind: type[Driver] = Several
) -> AsyncGenerator[Driver]:
    """Serve a card to a driver of some kind."""
    link = loopback(card)
    await nursery.start(serve, card, link)
    async with kind(link) as driver:
        yield driver


async def test_packets_come_back_unread(nursery: trio.Nursery) -> None:
    card = NullNet()
    async with driven(nursery, card) as driver:
        assert await driver.request_many([(PACKET, 0)] * 500, queue=TRANSMIT) == [b""] * 500
        sent = card.statistics().queues[TRANSMIT]

    assert (sent.completed, sent.bytes_out, sent.in_flight) == (500, 0, 0)


async def test_buffers_for_receiving_stay_in_the_ring(nursery: trio.Nursery) -> None:
    card = NullNet()
    async with driven(nursery, card) as driver:
        driver.submit(b"", 2048, RECEIVE)
        await driver.request(PACKET, queue=TRANSMIT)

        assert card.statistics().queues[RECEIVE].requests == 0


@pytest.mark.parametrize(("pairs", "answer"), [(0, ERR), (1, OK), (3, OK), (4, ERR), (0xFFFF, ERR)])
async def test_driver_says_how_many_pairs_it_uses(
    nursery: trio.Nursery, pairs: int, answer: bytes
) -> None:
    """5.1.6.5.6."""
    card = NullNet(pairs=3)
    async with driven(nursery, card) as driver:
        command = SET_PAIRS + pairs.to_bytes(2, "little")

        assert await driver.request(command, reply_size=1, queue=6) == answer
    assert card.used_pairs == (pairs if answer == OK else 1)


@pytest.mark.parametrize("command", [b"", b"\4", b"\4\0", b"\4\1\1\0", b"\0\0\1\0"])
async def test_command_that_is_not_known_is_answered_as_an_error(
    nursery: trio.Nursery, command: bytes
) -> None:
    async with driven(nursery, NullNet(pairs=2)) as driver:
        assert await driver.request(command, reply_size=1, queue=4) == ERR


async def test_control_queue_is_the_third_without_several_pairs(nursery: trio.Nursery) -> None:
    """5.1.2."""
    async with driven(nursery, NullNet(pairs=2), Bare) as driver:
        assert await driver.request(SET_PAIRS + b"\1\0", reply_size=1, queue=2) == OK


def test_configuration_is_what_was_asked_for() -> None:
    card = NullNet(pairs=2, mac=b"\x02abcde", mtu=9000)

    assert card.config == NetConfig(b"\x02abcde", 1, 2, 9000)
    assert card.queue_sizes == (256, 256, 256, 256, 64)
    assert card.features & (NetFeature.MQ | NetFeature.CTRL_VQ | NetFeature.MTU)


@pytest.mark.parametrize(
    "wrong", [{"pairs": 0}, {"pairs": 0x8001}, {"mac": b"\1bcdef"}, {"mac": b""}, {"mtu": 67}]
)
def test_card_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"pairs|address|MTU"):
        NullNet(**wrong)


async def test_only_a_network_device_offers_rarp_and_mtu() -> None:
    async with attached(NullNet()) as card, attached(Echo()) as other:
        bits = [await one.number(Request.GET_PROTOCOL_FEATURES) for one in (card, other)]

    assert [ProtocolFeature(offered) & NET_ONLY for offered in bits] == [NET_ONLY, 0]


async def test_queues_are_counted_in_pairs_for_a_frontend() -> None:
    async with attached(NullNet(pairs=3)) as frontend:
        await frontend.agree(int(ProtocolFeature.MQ))

        assert await frontend.number(Request.GET_QUEUE_NUM) == 3


async def test_frontend_has_an_address_announced_and_sets_the_mtu() -> None:
    card = NullNet()
    async with attached(card) as frontend:
        await frontend.agree(int(AGREED))
        await frontend.ask(Request.SEND_RARP, p.Number(int.from_bytes(b"\x02abcde", "little")))
        await frontend.ask(Request.NET_SET_MTU, p.Number(1400))

    assert (card.announced, card.host_mtu) == (b"\x02abcde", 1400)


@pytest.mark.parametrize("mtu", [0, 67, 1 << 16, (1 << 64) - 1])
async def test_mtu_that_cannot_be_is_refused(mtu: int) -> None:
    card = NullNet()
    async with attached(card) as frontend:
        await frontend.agree(int(AGREED))
        with pytest.raises(NegotiationError):
            await frontend.ask(Request.NET_SET_MTU, p.Number(mtu))

    assert card.host_mtu is None
