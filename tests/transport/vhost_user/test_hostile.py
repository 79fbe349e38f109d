"""A peer that lies: refused with one error, the channel closed, no descriptor left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies

from paravirt.transport import PeerError
from paravirt.transport.vhost_user import HEADER_SIZE, REQUESTS, Message, Request
from paravirt.transport.vhost_user.payloads import MAX_FDS, MAX_PAYLOAD, Number

from .wires import ROWS, fd_count, message, name, open_fds, peer_of, wire

if TYPE_CHECKING:
    import random

FEATURES = REQUESTS[Request.SET_FEATURES]


@pytest.mark.parametrize("row", ROWS, ids=name)
async def test_message_cut_anywhere_is_refused(row: Message, rng: random.Random) -> None:
    data = wire(row.payload, rng)
    whole = message(row, data)
    cuts = range(1, len(whole))
    before = open_fds()

    for cut in cuts:
        with peer_of([row]) as (peer, channel):
            peer.send(whole[:cut], fds=fd_count(row, data))
            peer.end()
            with pytest.raises(PeerError, match="ended after"):
                await channel.receive()
            assert channel.closed
    assert open_fds() == before


@pytest.mark.parametrize("row", ROWS, ids=name)
async def test_wrong_count_of_descriptors_is_refused_and_they_are_closed(
    row: Message, rng: random.Random
) -> None:
    data = wire(row.payload, rng)
    before = open_fds()

    with peer_of([row]) as (peer, channel):
        peer.send(message(row, data), fds=fd_count(row, data) + 1)
        with pytest.raises(PeerError, match="descriptors"):
            await channel.receive()
        assert channel.closed
    assert open_fds() == before


@pytest.mark.parametrize("row", ROWS, ids=name)
async def test_size_that_cannot_be_is_refused_before_the_payload_is_read(
    row: Message, rng: random.Random
) -> None:
    """The payload never comes: whoever waits for it waits for ever."""
    size = row.payload.sizes().stop
    with peer_of([row]) as (peer, channel):
        head = message(row, b"")[:8] + size.to_bytes(4, "little")
        peer.send(head, fds=row.fds[0])
        with pytest.raises(PeerError, match=r"a payload of|the most is"):
            await channel.receive()


async def test_more_descriptors_than_a_message_may_have_are_refused() -> None:
    before = open_fds()
    with peer_of([FEATURES]) as (peer, channel):
        peer.send(message(FEATURES, bytes(8)), fds=MAX_FDS + 1)
        with pytest.raises(PeerError, match="more than 8"):
            await channel.receive()
    assert open_fds() == before


async def test_descriptors_in_several_pieces_count_together() -> None:
    before = open_fds()
    with peer_of([FEATURES]) as (peer, channel):
        whole = message(FEATURES, bytes(8))
        for start in 0, 6:
            peer.send(whole[start : start + 6], fds=5)
        with pytest.raises(PeerError, match="more than 8"):
            await channel.receive()
    assert open_fds() == before


@pytest.mark.parametrize("flags", [0, 2, 3, 0x11, 0x80000001])
async def test_other_versions_and_reserved_flags_are_refused(flags: int) -> None:
    with peer_of([FEATURES]) as (peer, channel):
        peer.send(message(FEATURES, bytes(8), flags=flags), fds=1)
        with pytest.raises(PeerError, match=r"version|reserved"):
            await channel.receive()


async def test_reply_where_a_request_is_due_is_refused() -> None:
    with peer_of([FEATURES]) as (peer, channel):
        peer.send(message(FEATURES, bytes(8), flags=5))
        with pytest.raises(PeerError, match="no reply was due"):
            await channel.receive()


async def test_unknown_message_of_any_length_is_refused() -> None:
    with peer_of([]) as (peer, channel):
        peer.send(message(FEATURES, b"")[:8] + (MAX_PAYLOAD + 1).to_bytes(4, "little"))
        with pytest.raises(PeerError, match="the most is"):
            await channel.receive()


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (message(REQUESTS[Request.GET_QUEUE_NUM], bytes(8), flags=5), "request 17 was answered"),
        (message(REQUESTS[Request.GET_FEATURES], bytes(8), flags=1), "a reply was due"),
        (message(REQUESTS[Request.GET_FEATURES], bytes(4), flags=5), "reply to GET_FEATURES: a"),
        (message(REQUESTS[Request.GET_FEATURES], bytes(8), flags=5)[:9], "ended after"),
    ],
)
async def test_answer_that_does_not_fit_its_question_is_refused(reply: bytes, text: str) -> None:
    with peer_of([REQUESTS[Request.GET_FEATURES]]) as (peer, channel):
        peer.send(reply, fds=1)
        peer.end()
        with pytest.raises(PeerError, match=text):
            await channel.request(Request.GET_FEATURES)
        assert channel.closed


async def test_acknowledgement_with_descriptors_is_refused() -> None:
    before = open_fds()
    with peer_of([FEATURES]) as (peer, channel):
        channel.acknowledges = True
        peer.send(message(FEATURES, bytes(8), flags=5), fds=2)
        with pytest.raises(PeerError, match="2 descriptors"):
            await channel.request(Request.SET_FEATURES, Number(0))
    assert open_fds() == before


def mutated(data: bytes, edits: list[tuple[int, int, int]]) -> bytes:
    """Return bytes with some of them cut out, replaced or put in: at a place, how many, what."""
    for place, count, byte in edits:
        at = place % (len(data) + 1)
        data = data[:at] + bytes([byte]) * (count // 4) + data[at + count % 4 :]
    return data


EDITS = strategies.tuples(
    strategies.integers(0, 511), strategies.integers(0, 31), strategies.integers(0, 255)
)


@given(
    strategies.lists(strategies.sampled_from(ROWS), min_size=1, max_size=6),
    strategies.lists(EDITS, max_size=6),
    strategies.integers(0, MAX_FDS),
    strategies.randoms(use_true_random=False),
)
async def test_messages_with_bytes_changed_are_refused_or_understood(
    rows: list[Message], edits: list[tuple[int, int, int]], fds: int, rng: random.Random
) -> None:
    """Well-formed messages in a row, then a few edits: most still reach a parser of a payload."""
    before = open_fds()
    said = b"".join(message(row, wire(row.payload, rng)) for row in rows)
    with peer_of(rows) as (peer, channel):
        peer.send(mutated(said, edits) or b"\0", fds=fds)
        peer.end()
        try:
            while (incoming := await channel.receive()) is not None:
                with incoming:
                    assert incoming.message is None or isinstance(
                        incoming.payload, incoming.message.payload
                    )
        except PeerError:
            assert channel.closed
    assert open_fds() == before


@given(strategies.binary(min_size=1, max_size=4 * HEADER_SIZE), strategies.integers(0, 3))
async def test_noise_is_refused_or_understood(noise: bytes, fds: int) -> None:
    """Nothing but `PeerError` comes of it."""
    before = open_fds()
    with peer_of(list(REQUESTS.values())) as (peer, channel):
        peer.send(noise, fds=fds)
        peer.end()
        try:
            while (incoming := await channel.receive()) is not None:
                incoming.close()
        except PeerError:
            assert channel.closed
    assert open_fds() == before
