"""A device behind vhost-user: negotiation, and queues that run in every order of messages."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio

from paravirt.doorbells import EventFd
from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import (
    PROTOCOL_FEATURES,
    VHOST_F_LOG_ALL,
    ProtocolFeature,
    Request,
    payloads as p,
)
from tests.hostside.frontend import DATA, FEATURES, RING, UP, Frontend, attached
from tests.hostside.serving import Echo, Parked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Order: TypeAlias = Callable[[Frontend], Awaitable[None]]

ACK, STATUS = ProtocolFeature.REPLY_ACK, ProtocolFeature.STATUS


class Echoes(Echo):
    queue_sizes = (16, 16)


async def test_offers_ring_features_and_protocol_features() -> None:
    async with attached(Echo()) as frontend:
        features = await frontend.number(Request.GET_FEATURES)
        protocol = ProtocolFeature(await frontend.number(Request.GET_PROTOCOL_FEATURES))

    assert features == int(RING) | PROTOCOL_FEATURES | VHOST_F_LOG_ALL
    assert protocol == (
        ProtocolFeature.MQ
        | ProtocolFeature.LOG_SHMFD
        | ProtocolFeature.REPLY_ACK
        | ProtocolFeature.INFLIGHT_SHMFD
        | ProtocolFeature.RESET_DEVICE
        | ProtocolFeature.CONFIGURE_MEM_SLOTS
        | ProtocolFeature.STATUS
        | ProtocolFeature.DEVICE_STATE
    )


async def test_request_comes_back() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up()

        assert await frontend.echo(b"hello") == b"hello"


async def test_many_requests_come_back() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up()

        for number in range(200):
            data = str(number).encode()
            assert await frontend.echo(data) == data


async def test_indirect_table_may_be_longer_than_a_queue_the_frontend_made_short() -> None:
    """Linux goes by the device's seg_max, whatever the queue size; 2.7.5.3.1 notwithstanding."""
    async with attached(Echo(), size=4) as frontend:
        await frontend.bring_up()
        queue, memory = frontend.queues[0], frontend.memory
        memory.write(DATA, b"x" * 200)
        table = [struct.pack("<QIHH", DATA + at, 1, 1, at + 1) for at in range(200)]
        table.append(struct.pack("<QIHH", DATA + 4096, 200, 2, 0))
        memory.write(DATA + 8192, b"".join(table))
        indirect = struct.pack("<QIHH", DATA + 8192, 16 * len(table), 4, 0)
        memory.write(queue.geometry.desc, indirect)
        memory.write(queue.geometry.driver + 2, struct.pack("<HH", 1, 0))
        queue.kick.ring()
        while memory.read(queue.geometry.device + 2, 2) == bytes(2):
            await trio.lowlevel.checkpoint()

        assert memory.read(DATA + 4096, 200) == b"x" * 200


async def test_queue_waits_for_driver_ok_where_status_is_known() -> None:
    """2.1.2."""
    device = Parked()
    async with attached(device) as frontend:
        await frontend.agree(ACK | STATUS)
        await frontend.ask(Request.SET_FEATURES, p.Number(FEATURES))
        await frontend.share()
        await frontend.lay_out(frontend.queues[0])
        await frontend.bells(frontend.queues[0])
        await frontend.bell(Request.SET_VRING_KICK, frontend.queues[0].kick)
        await frontend.enable(frontend.queues[0])
        frontend.offer(b"early")
        await trio.testing.wait_all_tasks_blocked()
        assert not device.entered

        device.let_go(b"early")
        await frontend.ask(Request.SET_STATUS, p.Number(UP))

        assert await frontend.reply(5) == b"early"


async def qemu_entropy(frontend: Frontend) -> None:
    """Start as QEMU 7.2 does, with memory slots, and STATUS of which the end never comes."""
    await frontend.number(Request.GET_FEATURES)
    await frontend.number(Request.GET_PROTOCOL_FEATURES)
    await frontend.agree(
        int(ACK | STATUS | ProtocolFeature.CONFIGURE_MEM_SLOTS | ProtocolFeature.MQ)
    )
    assert await frontend.number(Request.GET_QUEUE_NUM) == 2
    assert await frontend.number(Request.GET_MAX_MEM_SLOTS) == 509
    await frontend.ask(Request.SET_OWNER)
    for queue in frontend.queues:
        await frontend.bells(queue)
    await frontend.ask(Request.SET_FEATURES, p.Number(FEATURES))
    await frontend.ask(Request.SET_STATUS, p.Number(8))
    await frontend.ask(Request.ADD_MEM_REG, frontend.row, [frontend.region.fd])
    for queue in frontend.queues:
        await frontend.lay_out(queue)
        queue.kick.ring()
        await frontend.bell(Request.SET_VRING_KICK, queue.kick, queue.index)
    for queue in frontend.queues:
        await frontend.enable(queue)
        await frontend.bell(Request.SET_VRING_CALL, queue.call, queue.index)


async def qemu(frontend: Frontend) -> None:
    """Start as QEMU 7.2 does for a disk."""
    await qemu_entropy(frontend)
    await frontend.ask(Request.SET_STATUS, p.Number(15))


async def cloud_hypervisor(frontend: Frontend) -> None:
    """Start as Cloud Hypervisor does: no GET_PROTOCOL_FEATURES, sizes first, no STATUS."""
    await frontend.ask(Request.SET_OWNER)
    await frontend.agree(int(ACK | ProtocolFeature.MQ))
    await frontend.ask(Request.SET_FEATURES, p.Number(FEATURES))
    await frontend.share()
    for queue in frontend.queues:
        await frontend.ask(Request.SET_VRING_NUM, p.VringState(queue.index, queue.geometry.size))
    for queue in frontend.queues:
        await frontend.ask(Request.SET_VRING_ADDR, queue.address)
        await frontend.ask(Request.SET_VRING_BASE, p.VringState(queue.index, 0))
        await frontend.bell(Request.SET_VRING_CALL, queue.call, queue.index)
        await frontend.bell(Request.SET_VRING_KICK, queue.kick, queue.index)
    for queue in frontend.queues:
        await frontend.enable(queue)


async def dpdk(frontend: Frontend) -> None:
    """Start as DPDK's virtio-user does: calls first, status in the middle, one memory table."""
    await frontend.ask(Request.SET_OWNER)
    await frontend.number(Request.GET_FEATURES)
    await frontend.number(Request.GET_PROTOCOL_FEATURES)
    await frontend.agree(int(ACK | STATUS | ProtocolFeature.MQ))
    for queue in frontend.queues:
        await frontend.bell(Request.SET_VRING_CALL, queue.call, queue.index)
    await frontend.ask(Request.SET_FEATURES, p.Number(FEATURES))
    await frontend.ask(Request.SET_STATUS, p.Number(11))
    assert await frontend.number(Request.GET_STATUS) == 11
    await frontend.share()
    for queue in frontend.queues:
        await frontend.lay_out(queue)
        await frontend.bell(Request.SET_VRING_KICK, queue.kick, queue.index)
    for queue in frontend.queues:
        await frontend.enable(queue)
    await frontend.ask(Request.SET_STATUS, p.Number(15))


async def net(frontend: Frontend) -> None:
    """Start as QEMU's network devices do: queues are enabled before anything else."""
    await frontend.agree(int(ACK))
    for queue in frontend.queues:
        await frontend.enable(queue)
    await frontend.ask(Request.SET_FEATURES, p.Number(FEATURES))
    await frontend.share()
    for queue in frontend.queues:
        await frontend.bells(queue)
        await frontend.lay_out(queue)
        await frontend.bell(Request.SET_VRING_KICK, queue.kick, queue.index)


async def plain(frontend: Frontend) -> None:
    """Start without protocol features: queues are enabled from the start."""
    await frontend.ask(Request.SET_OWNER)
    await frontend.ask(Request.SET_FEATURES, p.Number(RING))
    await frontend.share()
    for queue in frontend.queues:
        await frontend.bells(queue)
        await frontend.lay_out(queue)
        await frontend.bell(Request.SET_VRING_KICK, queue.kick, queue.index)


ORDERS = [qemu, qemu_entropy, cloud_hypervisor, dpdk, net, plain]


@pytest.mark.parametrize("order", ORDERS)
async def test_both_queues_run_in_the_order_of(order: Order) -> None:
    async with attached(Echoes(), queues=2) as frontend:
        await order(frontend)

        assert await frontend.echo(b"one", 0) == b"one"
        assert await frontend.echo(b"two", 1, DATA + 4096) == b"two"


async def test_stop_waits_for_what_was_taken_and_tells_the_next_index() -> None:
    device = Parked()
    async with attached(device) as frontend, trio.open_nursery() as nursery:
        await frontend.bring_up()
        frontend.offer(b"slow")
        while not device.entered:
            await trio.lowlevel.checkpoint()
        bases: list[int] = []

        async def stop() -> None:
            bases.append(await frontend.base())

        nursery.start_soon(stop)
        await trio.testing.wait_all_tasks_blocked()
        assert not bases
        device.let_go(b"slow")
        assert await frontend.reply(4) == b"slow"
        while not bases:
            await trio.lowlevel.checkpoint()

    assert bases == [1]
    assert not device.cancelled


async def test_stopped_queue_goes_on_from_where_it_was() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up()
        await frontend.echo(b"before")
        base = await frontend.base()
        frontend.offer(b"while stopped")

        await frontend.ask(Request.SET_VRING_BASE, p.VringState(0, base))
        await frontend.bell(Request.SET_VRING_KICK, frontend.queues[0].kick)

        assert await frontend.reply(13) == b"while stopped"


@pytest.mark.parametrize("base", [0, 1, 4, 0x8000, 0xFFFF])
async def test_base_that_is_no_driver_s_gives_way_to_what_the_ring_says(base: int) -> None:
    """DPDK's virtio-user says 0 of a ring that it goes on with."""
    async with attached(Echo()) as frontend:
        await frontend.bring_up()
        for data in b"one", b"two":
            assert await frontend.echo(data) == data
        await frontend.base()
        queue = frontend.queues[0]
        frontend.offer(b"three")
        await frontend.lay_out(queue, base)
        await frontend.bell(Request.SET_VRING_KICK, queue.kick)

        assert await frontend.reply(5) == b"three"


async def test_disabled_queue_rests_until_it_is_enabled() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up()
        await frontend.echo(b"before")
        await frontend.enable(frontend.queues[0], on=False)
        frontend.offer(b"meanwhile")
        await trio.testing.wait_all_tasks_blocked()
        assert not frontend.queues[0].ring.reap()

        await frontend.enable(frontend.queues[0])

        assert await frontend.reply(9) == b"meanwhile"


async def test_status_zero_drains_and_keeps_the_index() -> None:
    """QEMU writes it before it asks for the index, also when it only pauses."""
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK | STATUS)
        await frontend.echo(b"once")
        await frontend.ask(Request.SET_STATUS, p.Number(0))
        await frontend.enable(frontend.queues[0], on=False)

        assert await frontend.base() == 1
        assert await frontend.number(Request.GET_STATUS) == 0


async def test_reset_device_forgets_the_queues() -> None:
    device = Parked()
    async with attached(device) as frontend:
        await frontend.bring_up(ACK | ProtocolFeature.RESET_DEVICE)
        frontend.offer(b"lost")
        while not device.entered:
            await trio.lowlevel.checkpoint()

        await frontend.ask(Request.RESET_DEVICE)

        assert device.cancelled == [b"lost"]
        assert await frontend.base() == 0


async def test_reset_owner_lets_queues_start_again_without_protocol_features() -> None:
    async with attached(Echoes(), queues=2) as frontend:
        await plain(frontend)
        await frontend.echo(b"before")
        await frontend.ask(Request.RESET_OWNER)
        for queue in frontend.queues:
            await frontend.lay_out(queue, queue.ring.indices[0])
            await frontend.bell(Request.SET_VRING_KICK, queue.kick, queue.index)

        assert await frontend.echo(b"after") == b"after"


async def test_memory_may_grow_while_queues_run() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK | ProtocolFeature.CONFIGURE_MEM_SLOTS)
        await frontend.echo(b"before")
        more = p.MemoryRegion(1 << 30, 4096, 1 << 40, 0)

        await frontend.ask(Request.ADD_MEM_REG, more, [frontend.region.fd])
        assert await frontend.echo(b"after") == b"after"
        await frontend.ask(Request.REM_MEM_REG, more, [frontend.region.fd])
        assert await frontend.echo(b"again") == b"again"


async def test_region_that_is_added_twice_is_there_until_it_is_removed_twice() -> None:
    """QEMU 7.2 adds all of memory for each pair of queues of a network device."""
    slots = ACK | ProtocolFeature.CONFIGURE_MEM_SLOTS
    async with attached(Echo()) as frontend:
        await frontend.bring_up(slots)
        fds = [frontend.region.fd]
        await frontend.ask(Request.ADD_MEM_REG, frontend.row, fds)
        await frontend.ask(Request.REM_MEM_REG, frontend.row)
        assert await frontend.echo(b"still") == b"still"
        await frontend.ask(Request.REM_MEM_REG, frontend.row)
        with pytest.raises(NegotiationError):
            await frontend.ask(Request.REM_MEM_REG, frontend.row)
        await frontend.ask(Request.ADD_MEM_REG, frontend.row, fds)

        assert await frontend.echo(b"again") == b"again"


async def test_queue_waits_while_its_region_is_exchanged() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up(ACK | ProtocolFeature.CONFIGURE_MEM_SLOTS)
        await frontend.echo(b"before")

        await frontend.ask(Request.REM_MEM_REG, frontend.row)
        frontend.offer(b"between")
        await frontend.ask(Request.ADD_MEM_REG, frontend.row, [frontend.region.fd])

        assert await frontend.reply(7) == b"between"


async def test_call_may_be_exchanged_while_the_queue_runs() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up()
        frontend.queues[0].call.close()
        frontend.queues[0].call = EventFd()
        await frontend.bell(Request.SET_VRING_CALL, frontend.queues[0].call)

        assert await frontend.echo(b"hello") == b"hello"


async def test_kick_without_a_descriptor_is_polling() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up()
        await frontend.ask(Request.SET_VRING_KICK, p.VringFile(p.VringFile.NO_FD))

        assert await frontend.echo(b"hello") == b"hello"


async def test_feature_that_was_not_offered_is_refused() -> None:
    """2.2.1."""
    async with attached(Echo()) as frontend:
        await frontend.agree(int(ACK))

        with pytest.raises(NegotiationError):
            await frontend.ask(Request.SET_FEATURES, p.Number(FEATURES | 1 << 34))


async def test_refusal_does_not_end_the_connection() -> None:
    async with attached(Echo()) as frontend:
        await frontend.bring_up()
        with pytest.raises(NegotiationError):
            await frontend.ask(Request.SET_VRING_NUM, p.VringState(0, 8))

        assert await frontend.echo(b"hello") == b"hello"
