"""The conversation with one frontend: every message that the backend understands."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

import trio

from paravirt.transport import NegotiationError, PeerError, Status
from paravirt.transport.inflight import InflightFile, table_size
from paravirt.transport.link import ConfigWrite
from paravirt.transport.vhost_user import (
    VHOST_F_LOG_ALL,
    ProtocolFeature,
    Reply,
    Request,
    When,
    payloads as p,
)

from ._network import rarp_address
from ._regions import MAX_SLOTS, Regions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from paravirt.transport.vhost_user import Channel, Incoming, Message

    from ._link import BackendLink
    from ._migration import Migration
    from ._offer import Offer
    from ._rings import Rings

    Handler: TypeAlias = Callable[[Incoming], Awaitable[p.Payload | None]]

__all__ = ()  # of use to this room only

_log = logging.getLogger("paravirt.vhost_user")

MAX_REFUSALS = 64
"""After so many refused requests the connection is closed: each is a line in the log."""
CONFIG_SPACE = 256
"""Bytes of configuration space a frontend may ask for; those the device lacks read as 0."""
_QUEUE_SIZE_ANYWAY = 1024
"""An inflight file of ours has room for queues of this size: QEMU asks for what the device's option
says (128), and on virtio-mmio Linux takes all that the bus allows."""


class Session:
    """Answers the messages of one frontend, one after the other."""

    def __init__(
        self,
        channel: Channel,
        link: BackendLink,
        rings: Rings,
        offer: Offer,
        migration: Migration,
    ) -> None:
        self._channel = channel
        self._link = link
        self._rings = rings
        self._offer = offer
        self._refusals = 0
        self._handlers: Mapping[int, Handler] = {
            **self._of_device(),
            **self._of_queues(),
            **migration.handlers,
        }

    def _of_device(self) -> dict[int, Handler]:
        return {
            Request.GET_FEATURES: self._get_features,
            Request.SET_FEATURES: self._set_features,
            Request.SET_OWNER: self._nothing,
            Request.RESET_OWNER: self._reset,
            Request.GET_PROTOCOL_FEATURES: self._get_protocol_features,
            Request.SET_PROTOCOL_FEATURES: self._set_protocol_features,
            Request.GET_QUEUE_NUM: self._get_queue_num,
            Request.SEND_RARP: self._send_rarp,
            Request.NET_SET_MTU: self._net_set_mtu,
            Request.SET_BACKEND_REQ_FD: self._set_backend_req_fd,
            Request.GET_CONFIG: self._get_config,
            Request.SET_CONFIG: self._set_config,
            Request.RESET_DEVICE: self._reset,
            Request.SET_STATUS: self._set_status,
            Request.GET_STATUS: self._get_status,
            Request.GET_INFLIGHT_FD: self._get_inflight_fd,
            Request.SET_INFLIGHT_FD: self._set_inflight_fd,
        }

    def _of_queues(self) -> dict[int, Handler]:
        return {
            Request.SET_MEM_TABLE: self._set_mem_table,
            Request.SET_VRING_NUM: self._set_vring_num,
            Request.SET_VRING_ADDR: self._set_vring_addr,
            Request.SET_VRING_BASE: self._set_vring_base,
            Request.GET_VRING_BASE: self._get_vring_base,
            Request.SET_VRING_KICK: self._set_vring_kick,
            Request.SET_VRING_CALL: self._set_vring_call,
            Request.SET_VRING_ERR: self._set_vring_err,
            Request.SET_VRING_ENABLE: self._set_vring_enable,
            Request.VRING_KICK: self._vring_kick,
            Request.GET_MAX_MEM_SLOTS: self._get_max_mem_slots,
            Request.ADD_MEM_REG: self._add_mem_reg,
            Request.REM_MEM_REG: self._rem_mem_reg,
            Request.GET_SHMEM_CONFIG: self._get_shmem_config,
        }

    async def answer(self, incoming: Incoming) -> None:
        """Do what one message asks, and answer it if it wants an answer.

        Raises `PeerError` for what is refused and has no other way to learn of it: the connection
        is to be closed.
        """
        row = incoming.message
        agreed = ProtocolFeature.REPLY_ACK in self._link.protocol
        wanted = incoming.need_reply and agreed and (row is None or row.reply is Reply.ACK)
        try:
            reply = await self._carry_out(incoming)
        except PeerError as refusal:
            self._refusals += 1
            if self._refusals > MAX_REFUSALS or self._link.closed:
                raise
            # A configuration write may be the guest's own: no reason to cut it off.
            if not wanted and not isinstance(refusal, NegotiationError):
                raise
            _log.warning("refused: %s", refusal)
            if wanted:
                await self._channel.acknowledge(incoming, 1)
            return
        if reply is not None:
            await self._channel.reply(incoming.header.request, reply)
        elif wanted:
            await self._channel.acknowledge(incoming)

    async def _carry_out(self, incoming: Incoming) -> p.Payload | None:
        number = incoming.header.request
        handler = self._handlers.get(number)
        row = incoming.message
        if row is None or handler is None:
            raise PeerError(f"request {number} is not supported here")
        if row.needs and not row.needs & self._link.protocol:
            raise PeerError(f"{row.name} came without being agreed on")
        self._check_when(row, incoming.payload)
        return await handler(incoming)

    def _check_when(self, row: Message, payload: p.Payload) -> None:
        if row.when is When.RING_STOPPED and isinstance(payload, p.VringState):
            self._rings.get(payload.index).check_stopped(row.name)
        if row.when is When.DEVICE_STOPPED and self._rings.running:
            raise PeerError(f"{row.name} while queues run")

    async def _nothing(self, incoming: Incoming) -> None:
        del incoming

    # Features.

    async def _get_features(self, _: Incoming) -> p.Payload:
        return p.Number(self._offer.features)

    async def _set_features(self, incoming: Incoming) -> None:
        features = _number(incoming)
        self._offer.check_features(features)
        logging = bool(features & VHOST_F_LOG_ALL)
        features &= ~VHOST_F_LOG_ALL  # which a migration changes while the device runs
        if self._rings.running and features != self._rings.features:
            raise PeerError("features were changed while queues run")
        self._rings.features = features
        if logging != self._rings.log.on:
            async with self._rings.paused():
                self._rings.log.on = logging
        await self._rings.refresh()

    async def _get_protocol_features(self, _: Incoming) -> p.Payload:
        return p.Number(self._offer.wire_protocol)

    async def _set_protocol_features(self, incoming: Incoming) -> None:
        agreed = self._offer.check_protocol(_number(incoming))
        if self._rings.running and agreed != self._link.protocol:
            raise PeerError("protocol features were changed while queues run")
        self._link.protocol = agreed

    async def _get_queue_num(self, _: Incoming) -> p.Payload:
        return p.Number(self._offer.queue_number)

    async def _set_backend_req_fd(self, incoming: Incoming) -> None:
        self._link.set_back_channel(incoming.fds)

    # Memory.

    async def _set_mem_table(self, incoming: Incoming) -> None:
        table = incoming.payload
        assert isinstance(table, p.MemoryTable)
        regions = Regions.table(table.regions, incoming.fds)
        async with self._rings.paused():
            old, self._rings.regions = self._rings.regions, regions
            old.close()

    async def _get_max_mem_slots(self, _: Incoming) -> p.Payload:
        return p.Number(MAX_SLOTS)

    async def _add_mem_reg(self, incoming: Incoming) -> None:
        row = incoming.payload
        assert isinstance(row, p.MemoryRegion)
        if self._rings.regions.add_again(row, incoming.fds):
            return
        async with self._rings.paused():
            self._rings.regions.add(row, incoming.fds)

    async def _rem_mem_reg(self, incoming: Incoming) -> None:
        row = incoming.payload
        assert isinstance(row, p.MemoryRegion)
        async with self._rings.paused():
            self._rings.regions.remove(row)

    # Queues.

    async def _set_vring_num(self, incoming: Incoming) -> None:
        state = _state(incoming)
        self._rings.get(state.index).set_size(state.value)
        await self._rings.refresh()

    async def _set_vring_base(self, incoming: Incoming) -> None:
        state = _state(incoming)
        self._rings.get(state.index).set_base(state.value)
        await self._rings.refresh()

    async def _set_vring_addr(self, incoming: Incoming) -> None:
        address = incoming.payload
        assert isinstance(address, p.VringAddress)
        vring = self._rings.get(address.index)
        old = vring.address
        if old is None or _place(old) != _place(address):
            vring.check_stopped("SET_VRING_ADDR")
        elif old != address:  # the log of a ring that may run was changed
            await self._rings.stop([vring])
        vring.address = address
        await self._rings.refresh()

    async def _get_vring_base(self, incoming: Incoming) -> p.Payload:
        vring = self._rings.get(_state(incoming).index)
        await self._rings.halt(vring)
        vring.drop_kick()
        await self._rings.refresh()
        return p.VringState(vring.index, vring.base)

    async def _set_vring_kick(self, incoming: Incoming) -> None:
        vring = self._rings.get(_file(incoming).index)
        await self._rings.stop([vring])
        vring.set_kick(incoming.fds)
        await self._rings.refresh()

    async def _set_vring_call(self, incoming: Incoming) -> None:
        self._rings.get(_file(incoming).index).set_call(incoming.fds)

    async def _set_vring_err(self, incoming: Incoming) -> None:
        self._rings.get(_file(incoming).index).set_error(incoming.fds)

    async def _vring_kick(self, incoming: Incoming) -> None:
        state = _state(incoming)
        if state.value:
            raise PeerError(f"VRING_KICK of queue {state.index} has {state.value}, not 0")
        self._rings.get(state.index).kick_in_band()
        await self._rings.refresh()

    async def _set_vring_enable(self, incoming: Incoming) -> None:
        state = _state(incoming)
        if state.value > 1:
            raise PeerError(f"queue {state.index} was enabled by {state.value}, not by 0 or 1")
        self._rings.get(state.index).enabled = bool(state.value)
        await self._rings.refresh()

    async def _get_inflight_fd(self, incoming: Incoming) -> None:
        wanted = incoming.payload
        assert isinstance(wanted, p.Inflight)
        if wanted.queues > len(self._rings.vrings):
            raise PeerError(f"{wanted.queues} queues, of {len(self._rings.vrings)}", clause="2.6")
        room = wanted.queue_size and max(wanted.queue_size, _QUEUE_SIZE_ANYWAY)
        file = InflightFile.create(wanted.queues, room)
        region = file.region
        reply = p.Inflight(region.size, 0, wanted.queues, wanted.queue_size)
        try:
            await self._channel.reply(incoming.header.request, reply, [region.fd])
        finally:
            file.close()  # the frontend hands it back by SET_INFLIGHT_FD

    async def _set_inflight_fd(self, incoming: Incoming) -> None:
        given = incoming.payload
        assert isinstance(given, p.Inflight)
        ours = given.size == given.queues * table_size(_QUEUE_SIZE_ANYWAY)
        file = InflightFile.foreign(
            incoming.fds.take(),
            size=given.size,
            offset=given.offset,
            queues=given.queues,
            queue_size=max(given.queue_size, _QUEUE_SIZE_ANYWAY) if ours else given.queue_size,
        )
        self._rings.keep_inflight(file)

    # The device.

    async def _send_rarp(self, incoming: Incoming) -> None:
        assert self._offer.network is not None
        self._offer.network.announce(rarp_address(_number(incoming)))

    async def _net_set_mtu(self, incoming: Incoming) -> None:
        assert self._offer.network is not None
        self._offer.network.set_host_mtu(_number(incoming))

    async def _get_shmem_config(self, _: Incoming) -> p.Payload:
        return p.SharedMemoryConfig(0, (0,) * p.MAX_SHARED_MEMORIES)  # no device here has any

    async def _get_status(self, _: Incoming) -> p.Payload:
        return p.Number(self._link.status)

    async def _set_status(self, incoming: Incoming) -> None:
        status = _number(incoming)
        if status > 0xFF:
            raise PeerError(f"a device status of {status:#x}", clause="2.1")
        if status & Status.FEATURES_OK:
            try:
                self._offer.check_usable(self._rings.features or 0)
            except PeerError:
                status &= ~Status.FEATURES_OK  # which the driver reads again (2.2.2)
        sticky = self._link.status & Status.DEVICE_NEEDS_RESET if status else 0
        self._link.status = status | sticky
        await self._rings.refresh()

    async def _reset(self, _: Incoming) -> None:
        self._link.status = 0
        await self._rings.reset()

    async def _get_config(self, incoming: Incoming) -> p.Payload:
        access = _access(incoming)
        end = access.offset + len(access.data)
        if end > max(CONFIG_SPACE, len(self._link.config)):
            return p.EMPTY
        data = self._link.config[access.offset : end].ljust(len(access.data), b"\0")
        return p.ConfigAccess(access.offset, access.flags, data)

    async def _set_config(self, incoming: Incoming) -> None:
        access = _access(incoming)
        end = access.offset + len(access.data)
        if end > len(self._link.config):
            raise PeerError(f"configuration was written up to {end}", clause="2.5")
        if access.flags == p.ConfigAccess.MIGRATION:
            if self._link.config[access.offset : end] != access.data:
                raise PeerError("a migration brought another configuration than this device's")
            return
        await self._write_config(access.offset, access.data)

    async def _write_config(self, offset: int, data: bytes) -> None:
        answers: list[Exception | None] = []
        answered = trio.Event()

        def done(refusal: Exception | None = None) -> None:
            answers.append(refusal)
            answered.set()

        self._link.change(ConfigWrite(offset, data, done))
        await answered.wait()
        if answers[0] is not None:
            raise answers[0]


def _number(incoming: Incoming) -> int:
    assert isinstance(incoming.payload, p.Number)
    return incoming.payload.value


def _state(incoming: Incoming) -> p.VringState:
    assert isinstance(incoming.payload, p.VringState)
    return incoming.payload


def _file(incoming: Incoming) -> p.VringFile:
    assert isinstance(incoming.payload, p.VringFile)
    return incoming.payload


def _access(incoming: Incoming) -> p.ConfigAccess:
    assert isinstance(incoming.payload, p.ConfigAccess)
    return incoming.payload


def _place(address: p.VringAddress) -> tuple[int, int, int]:
    return address.desc, address.driver, address.device
