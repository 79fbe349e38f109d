"""Protocol features that are supported and not offered until somebody asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.hostside.vhost_user import Terms
from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import (
    BackendRequest,
    Channel,
    Dialect,
    ProtocolFeature,
    Request,
    payloads as p,
)
from tests.hostside.frontend import DATA, USER, Frontend, attached, back_channel
from tests.hostside.serving import Echo

if TYPE_CHECKING:
    from collections.abc import Sequence

ACK = ProtocolFeature.REPLY_ACK
IN_BAND = ACK | ProtocolFeature.BACKEND_REQ | ProtocolFeature.INBAND_NOTIFICATIONS
IN_BAND_TERMS = Terms(also=ProtocolFeature.INBAND_NOTIFICATIONS)
QEMU_11 = Dialect(gpa_addresses=21, shmem=22)


class Echoes(Echo):
    queue_sizes: Sequence[int] = (16, 16)


async def offered(terms: Terms | None) -> int:
    """Return the bits that a frontend is told."""
    async with attached(Echo(), terms=terms) as frontend:
        return await frontend.number(Request.GET_PROTOCOL_FEATURES)


async def test_nothing_beyond_the_device_is_offered_by_itself() -> None:
    bits = ProtocolFeature(await offered(None))

    assert not bits & (ProtocolFeature.INBAND_NOTIFICATIONS | ProtocolFeature.BACKEND_SEND_FD)
    assert not int(bits) >> 20


@pytest.mark.parametrize("bit", [21, 33])
async def test_feature_is_offered_at_the_bit_of_the_dialect(bit: int) -> None:
    terms = Terms(also=ProtocolFeature.GPA_ADDRESSES, dialect=Dialect(gpa_addresses=bit))

    assert await offered(terms) >> 20 == 1 << (bit - 20)


async def test_feature_of_the_device_may_be_withheld() -> None:
    bits = await offered(Terms(never=ProtocolFeature.STATUS))

    assert not bits & ProtocolFeature.STATUS
    assert bits & ProtocolFeature.REPLY_ACK


async def test_notifications_in_band_bring_what_they_need() -> None:
    """They are of no use without a back channel, and REPLY_ACK."""
    assert IN_BAND in ProtocolFeature(await offered(IN_BAND_TERMS))


def test_feature_that_no_backend_has_cannot_be_offered() -> None:
    with pytest.raises(ValueError, match="Xen mappings"):
        Terms(also=ProtocolFeature.XEN_MMAP)


def test_feature_without_a_bit_cannot_be_offered() -> None:
    with pytest.raises(ValueError, match="SHMEM"):
        Terms(also=ProtocolFeature.SHMEM)


async def test_notifications_in_band_without_what_they_need_are_refused() -> None:
    async with attached(Echo(), terms=IN_BAND_TERMS) as frontend:
        await frontend.agree(int(ACK))
        with pytest.raises(NegotiationError):
            await frontend.agree(int(ProtocolFeature.INBAND_NOTIFICATIONS | ACK))


async def start_in_band(frontend: Frontend) -> Channel:
    """Bring up all queues without any descriptor for them; returns the back channel."""
    await frontend.agree(int(IN_BAND))
    await frontend.introduce()
    back = await back_channel(frontend)
    for queue in frontend.queues:
        await frontend.lay_out(queue)
        await frontend.enable(queue)
    return back


async def kick(frontend: Frontend, queue: int = 0) -> None:
    await frontend.ask(Request.VRING_KICK, p.VringState(queue, 0))


async def heard(back: Channel) -> tuple[BackendRequest, int]:
    """Return what the backend says next, and of which queue."""
    incoming = await back.receive()
    assert incoming is not None
    with incoming:
        assert isinstance(incoming.payload, p.VringState)
        assert incoming.need_reply  # or too many of them fill the socket
        await back.acknowledge(incoming)
        return BackendRequest(incoming.header.request), incoming.payload.index


async def test_queue_runs_on_messages_alone() -> None:
    """The first VRING_KICK starts it, and VRING_CALL comes over the back channel."""
    async with attached(Echoes(), queues=2, terms=IN_BAND_TERMS) as frontend:
        back = await start_in_band(frontend)
        for data in b"one", b"more":
            frontend.offer(data, queue=1)
            await kick(frontend, 1)
            while not frontend.queues[1].ring.reap():
                assert await heard(back) == (BackendRequest.VRING_CALL, 1)
            assert frontend.memory.read(DATA + len(data), len(data)) == data
        back.close()


async def test_queue_that_breaks_says_so_in_band() -> None:
    async with attached(Echo(), terms=IN_BAND_TERMS) as frontend:
        back = await start_in_band(frontend)
        broken = frontend.queues[0].geometry
        frontend.memory.write(broken.driver + 2, (1000).to_bytes(2, "little"))
        await kick(frontend)

        said = [await heard(back)]
        while said[-1][0] is BackendRequest.VRING_CALL:  # a queue that starts may owe one
            said.append(await heard(back))
        assert said[-1] == (BackendRequest.VRING_ERR, 0)
        back.close()


async def test_refused_call_ends_the_connection() -> None:
    """There is no other way to tell the driver."""
    async with attached(Echo(), terms=IN_BAND_TERMS) as frontend:
        back = await start_in_band(frontend)
        frontend.offer(b"hello")
        await kick(frontend)
        incoming = await back.receive()
        assert incoming is not None
        with incoming:
            await back.acknowledge(incoming, 1)

        assert await frontend.channel.receive() is None
        back.close()


async def test_call_descriptor_is_preferred_to_messages() -> None:
    async with attached(Echo(), terms=IN_BAND_TERMS) as frontend:
        back = await start_in_band(frontend)
        await frontend.bells(frontend.queues[0])
        frontend.offer(b"hello")
        await kick(frontend)

        assert await frontend.reply(5) == b"hello"
        back.close()


async def test_queue_stops_and_starts_again_in_band() -> None:
    async with attached(Echo(), terms=IN_BAND_TERMS) as frontend:
        back = await start_in_band(frontend)
        await frontend.bells(frontend.queues[0])
        frontend.offer(b"one")
        await kick(frontend)
        assert await frontend.reply(3) == b"one"
        assert await frontend.base() == 1
        frontend.offer(b"two")
        await kick(frontend)

        assert await frontend.reply(3) == b"two"
        back.close()


async def test_calls_wait_for_a_back_channel_that_comes_last() -> None:
    """Cloud Hypervisor sends it after all queues."""
    async with attached(Echo(), terms=IN_BAND_TERMS) as frontend:
        await frontend.agree(int(IN_BAND))
        await frontend.introduce()
        await frontend.lay_out(frontend.queues[0])
        await frontend.enable(frontend.queues[0])
        await kick(frontend)
        back = await back_channel(frontend)

        assert await heard(back) == (BackendRequest.VRING_CALL, 0)
        back.close()


async def test_rings_may_lie_at_the_guest_s_addresses() -> None:
    """GPA_ADDRESSES changes what SET_VRING_ADDR means."""
    terms = Terms(also=ProtocolFeature.GPA_ADDRESSES, dialect=QEMU_11)
    async with attached(Echo(), terms=terms) as frontend:
        await frontend.agree(int(ACK) | 1 << 21)
        await frontend.introduce()
        queue = frontend.queues[0]
        await frontend.bells(queue)
        await frontend.lay_out(queue)
        place = queue.address
        here = [address - USER for address in (place.desc, place.device, place.driver)]
        await frontend.ask(Request.SET_VRING_ADDR, p.VringAddress(0, 0, *here))
        await frontend.bell(Request.SET_VRING_KICK, queue.kick)
        await frontend.enable(queue)

        assert await frontend.echo(b"hello") == b"hello"


async def test_device_has_no_shared_memory_regions() -> None:
    terms = Terms(also=ProtocolFeature.SHMEM, dialect=QEMU_11)
    async with attached(Echo(), terms=terms) as frontend:
        await frontend.agree(int(ACK) | 1 << 22)
        answer = await frontend.ask(Request.GET_SHMEM_CONFIG)

        assert isinstance(answer, p.SharedMemoryConfig)
        assert answer.count == sum(answer.sizes_by_id) == 0
