"""A channel between two ends that mean well."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import REQUESTS, Channel, Flags, Incoming, Request
from paravirt.transport.vhost_user.payloads import (
    EMPTY,
    ConfigAccess,
    MemoryRegion,
    MemoryTable,
    Number,
    VringFile,
)

from .wires import both_ends, message, open_fds, peer_of

if TYPE_CHECKING:
    from paravirt.transport.vhost_user.payloads import Payload

FEATURES = REQUESTS[Request.GET_FEATURES]


async def next_request(channel: Channel) -> Incoming:
    incoming = await channel.receive()
    assert incoming is not None
    return incoming


async def answer(channel: Channel, payload: Payload) -> None:
    with await next_request(channel) as incoming:
        await channel.reply(incoming.header.request, payload)


async def test_question_is_answered() -> None:
    with both_ends() as (front, back):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, back, Number(5))
            with await front.request(Request.GET_FEATURES) as reply:
                assert reply.payload == Number(5)


async def test_request_without_reply_returns_at_once() -> None:
    with both_ends() as (front, back):
        await front.request(Request.SET_FEATURES, Number(7))
        with await next_request(back) as incoming:
            assert incoming.payload == Number(7)
            assert not incoming.need_reply


async def test_request_waits_for_its_acknowledgement_once_that_was_agreed_on() -> None:
    """REPLY_ACK."""
    with both_ends() as (front, back):
        front.acknowledges = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.request, Request.SET_OWNER)
            with await next_request(back) as incoming:
                assert incoming.need_reply
                assert len(nursery.child_tasks) == 1
                await back.acknowledge(incoming)


async def test_refused_request_raises() -> None:
    with both_ends() as (front, back):
        front.acknowledges = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, back, Number(22))
            with pytest.raises(NegotiationError, match="refused SET_OWNER, with 0x16"):
                await front.request(Request.SET_OWNER)


async def test_refused_configuration_read_raises() -> None:
    with both_ends() as (front, back):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, back, EMPTY)
            with pytest.raises(NegotiationError, match="refused GET_CONFIG"):
                await front.request(Request.GET_CONFIG, ConfigAccess(0, 0, bytes(4)))


async def test_descriptors_arrive_as_the_same_files() -> None:
    read, write = os.pipe()
    with both_ends() as (front, back):
        region = MemoryRegion(0, 4096, 0, 0)
        await front.request(Request.SET_MEM_TABLE, MemoryTable((region, region)), [read, write])
        with await next_request(back) as incoming:
            taken = [incoming.fds.take(), incoming.fds.take()]
    assert [os.fstat(fd).st_ino for fd in taken] == [os.fstat(fd).st_ino for fd in (read, write)]
    assert not any(os.get_inheritable(fd) for fd in taken)
    for fd in (read, write, *taken):
        os.close(fd)


async def test_descriptors_that_nobody_takes_are_closed() -> None:
    before = open_fds()
    with both_ends() as (front, back), open("/dev/null") as null:  # noqa: ASYNC230
        await front.request(Request.SET_VRING_CALL, VringFile(0), [null.fileno()])
        (await next_request(back)).close()
    assert open_fds() == before


async def test_end_between_two_messages_is_no_error() -> None:
    with both_ends() as (front, back):
        await front.request(Request.SET_OWNER)
        front.close()
        with await next_request(back):
            pass

        assert await back.receive() is None


async def test_end_before_the_answer_breaks_the_question() -> None:
    with both_ends() as (front, back):
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                await next_request(back)
                back.close()

            nursery.start_soon(leave)
            with pytest.raises(trio.BrokenResourceError):
                await front.request(Request.GET_FEATURES)


async def test_closing_wakes_who_waits() -> None:
    with both_ends() as (_, back):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raises_closed, back)
            await wait_all_tasks_blocked()
            back.close()


async def raises_closed(channel: Channel) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()


async def test_message_may_arrive_byte_by_byte() -> None:
    with peer_of([REQUESTS[Request.SET_FEATURES]]) as (peer, channel):
        got: list[Incoming] = []

        async def receive() -> None:
            got.append(await next_request(channel))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for byte in message(REQUESTS[Request.SET_FEATURES], Number(9).to_bytes()):
                peer.send(bytes([byte]))
                await wait_all_tasks_blocked()

        assert got[0].payload == Number(9)


async def test_cancelled_before_a_message_the_channel_goes_on() -> None:
    with peer_of([FEATURES]) as (peer, channel):
        with trio.move_on_after(0):
            await channel.receive()
        peer.send(message(FEATURES, b""))

        (await next_request(channel)).close()


async def test_cancelled_within_a_message_the_channel_is_closed() -> None:
    with peer_of([FEATURES]) as (peer, channel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive)
            peer.send(message(FEATURES, b"")[:5])
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

        assert channel.closed


async def test_cancelled_before_its_answer_a_question_closes_the_channel() -> None:
    with both_ends() as (front, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.request, Request.GET_FEATURES)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

        assert front.closed


async def test_two_tasks_that_ask_get_their_own_answers() -> None:
    with both_ends() as (front, back):
        replies: dict[int, Payload] = {}

        async def ask(which: Request) -> None:
            with await front.request(which) as reply:
                replies[which] = reply.payload

        async with trio.open_nursery() as nursery:
            for which in Request.GET_FEATURES, Request.GET_QUEUE_NUM:
                nursery.start_soon(ask, which)
            for _ in range(2):
                with await next_request(back) as incoming:
                    await back.reply(incoming.header.request, Number(incoming.header.request))

        assert replies == {which: Number(which) for which in replies}


async def test_message_that_is_not_in_the_table_is_handed_over_without_its_contents() -> None:
    before = open_fds()
    with peer_of([FEATURES]) as (peer, channel):
        peer.send(message(REQUESTS[Request.SET_VRING_CALL], bytes(8), flags=Flags(9)), fds=1)
        incoming = await next_request(channel)

        assert (incoming.message, incoming.payload, incoming.need_reply) == (None, EMPTY, True)
    assert open_fds() == before
