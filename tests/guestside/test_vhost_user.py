"""The frontend of vhost-user, against a backend that does as it is told."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from paravirt.doorbells import Polling
from paravirt.guestside import DeviceNeedsReset, Driver, SyncDriver
from paravirt.guestside.vhost_user import VhostUserLink, connect_vhost_user
from paravirt.transport import ConfigSpace, NegotiationError, PeerError
from paravirt.transport.vhost_user import (
    BACKEND_REQUESTS,
    BackendRequest,
    ProtocolFeature as Has,
    Request,
)
from paravirt.transport.vhost_user.payloads import EMPTY, Number, VringFile

from .backend import Scripted

if TYPE_CHECKING:
    from pathlib import Path

SMALL = 1 << 20
connect = partial(connect_vhost_user, memory_size=SMALL, queue_size=8)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


async def test_queues_are_set_up_in_the_order_of_qemu(path: Path) -> None:
    backend = Scripted(path, Has.REPLY_ACK | Has.STATUS)
    async with backend.listening(), connect(path) as link, Driver(link):
        start = backend.asked.index(Request.SET_MEM_TABLE)

        assert backend.asked[start:][:8] == [
            Request.SET_MEM_TABLE,
            Request.SET_VRING_NUM,
            Request.SET_VRING_BASE,
            Request.SET_VRING_ADDR,
            Request.SET_VRING_ERR,
            Request.SET_VRING_CALL,
            Request.SET_VRING_KICK,
            Request.SET_VRING_ENABLE,
        ]


async def test_memory_goes_by_slots_where_there_are_some(path: Path) -> None:
    backend = Scripted(path, Has.CONFIGURE_MEM_SLOTS, {Request.GET_MAX_MEM_SLOTS: Number(509)})
    async with backend.listening(), connect(path) as link, Driver(link):
        pass

    assert Request.ADD_MEM_REG in backend.asked
    assert Request.SET_MEM_TABLE not in backend.asked


async def test_leaving_the_driver_stops_every_queue(path: Path) -> None:
    backend = Scripted(path, Has.MQ | Has.REPLY_ACK)
    async with backend.listening(), connect(path) as link:
        async with Driver(link):
            pass

        assert backend.asked[-4:] == [Request.SET_VRING_ENABLE, Request.GET_VRING_BASE] * 2


async def test_device_is_reset_by_its_own_message_where_there_is_one(path: Path) -> None:
    backend = Scripted(path, Has.RESET_DEVICE | Has.STATUS)
    async with backend.listening(), connect(path) as link:
        async with Driver(link):
            pass

        assert backend.asked.index(Request.RESET_DEVICE) < backend.asked.index(
            Request.GET_VRING_BASE
        )
        assert backend.values[Request.SET_STATUS] == Number(0)


async def test_what_is_not_wanted_is_not_agreed_on(path: Path) -> None:
    """QEMU 7.2 takes every bit; a frontend should take what it means."""
    backend = Scripted(path, Has(0xFFFFF) & ~Has.BACKEND_REQ)
    backend.answers[Request.GET_MAX_MEM_SLOTS] = Number(8)
    async with backend.listening(), connect(path, protocol_features=Has.MQ | Has.RARP) as link:
        assert link.session.agreed == Has.MQ
        assert backend.values[Request.SET_PROTOCOL_FEATURES] == Number(int(Has.MQ))


async def test_polled_call_has_a_descriptor_all_the_same(path: Path) -> None:
    """libvhost-user breaks the queue at its first call without one."""
    backend = Scripted(path)
    async with backend.listening(), connect(path, call_doorbell=Polling) as link, Driver(link):
        await link.session.ask(Request.GET_FEATURES)  # so that all before it has arrived

        assert backend.values[Request.SET_VRING_CALL] == VringFile(0)


async def test_polled_kick_is_refused(path: Path) -> None:
    backend = Scripted(path)
    async with backend.listening():
        with pytest.raises(ValueError, match="no other process hears"):
            async with connect(path, doorbell=Polling):
                pass


async def test_refused_features_are_the_peers_refusal(path: Path) -> None:
    backend = Scripted(path, Has.REPLY_ACK, {Request.SET_FEATURES: Number(1)})
    async with backend.listening(), connect(path) as link:
        with pytest.raises(NegotiationError, match="refused SET_FEATURES"):
            await Driver(link).__aenter__()


async def test_refused_configuration_read_is_the_peers_refusal(path: Path) -> None:
    backend = Scripted(path, Has.CONFIG, {Request.GET_CONFIG: EMPTY})
    async with backend.listening(), connect(path) as link:
        with pytest.raises(NegotiationError, match="refused GET_CONFIG"):
            await link.read_config(0, 8)


async def test_backend_without_configuration_space_has_none_to_read(path: Path) -> None:
    backend = Scripted(path)
    async with backend.listening(), connect(path) as link:
        with pytest.raises(NegotiationError, match="lacks CONFIG"):
            await link.read_config(0, 8)


async def change_config(backend: Scripted) -> None:
    assert backend.back is not None
    (await backend.back.request(BackendRequest.CONFIG_CHANGE_MSG)).close()


async def test_change_of_the_configuration_is_noticed(path: Path) -> None:
    backend = Scripted(path, Has.BACKEND_REQ | Has.CONFIG | Has.REPLY_ACK)
    async with backend.listening(), connect(path) as link:
        await change_config(backend)

        await link.changed.wait()
        assert (await link.read_config(0, 0))[1] == 1


async def test_descriptor_over_the_back_channel_is_refused_and_closed(path: Path) -> None:
    """BACKEND_SEND_FD was not agreed on, and nothing that carries one is done here."""
    backend = Scripted(path, Has.BACKEND_REQ | Has.REPLY_ACK)
    async with backend.listening(), connect(path) as link:
        await link.session.ask(Request.GET_FEATURES)  # so that all before it has arrived
        assert backend.back is not None
        before = open_fds()
        for request in BackendRequest.SHMEM_MAP, BackendRequest.VRING_HOST_NOTIFIER_MSG:
            kind = BACKEND_REQUESTS[request].payload
            payload = kind.from_bytes(bytes(kind.sizes().start))
            with pytest.raises(NegotiationError):
                await backend.back.request(request, payload, [backend.back.fileno()])
        await wait_all_tasks_blocked()

        assert open_fds() == before


async def test_device_that_needs_a_reset_is_noticed(path: Path) -> None:
    """2.1.2: it sends a configuration change notification."""
    backend = Scripted(path, Has.BACKEND_REQ | Has.CONFIG | Has.REPLY_ACK | Has.STATUS)
    async with (
        backend.listening(),
        connect(path) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(raises_needs_reset, driver)
        backend.values[Request.SET_STATUS] = Number(0x4F)
        await change_config(backend)


async def raises_needs_reset(driver: Driver) -> None:
    with pytest.raises(DeviceNeedsReset):
        await driver.request(b"", 1)


async def test_request_on_a_queue_that_broke_raises(path: Path) -> None:
    backend = Scripted(path, Has.REPLY_ACK)
    async with (
        backend.listening(),
        connect(path) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(raises_needs_reset, driver)
        backend.errors[0].ring()


async def test_request_raises_when_the_backend_goes_away(path: Path) -> None:
    backend = Scripted(path, leaves_at=Request.GET_QUEUE_NUM)
    async with (
        backend.listening(),
        connect(path) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(raises_broken, driver)
        nursery.start_soon(ask_in_vain, link)


async def raises_broken(driver: Driver) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await driver.request(b"", 1)


async def test_wait_for_a_change_ends_when_the_backend_goes_away(path: Path) -> None:
    backend = Scripted(path, Has.CONFIG, leaves_at=Request.GET_QUEUE_NUM)
    async with (
        backend.listening(),
        connect(path) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        await driver.read_config(ConfigSpace)
        nursery.start_soon(ask_in_vain, link)
        with pytest.raises(trio.BrokenResourceError):
            await driver.config_changed()


async def ask_in_vain(link: VhostUserLink) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await link.session.ask(Request.GET_QUEUE_NUM)


@pytest.mark.parametrize("request_", [Request.GET_FEATURES, Request.SET_OWNER])
async def test_backend_that_leaves_in_the_handshake_breaks_it(
    path: Path, request_: Request
) -> None:
    backend = Scripted(path, Has.REPLY_ACK, leaves_at=request_)
    before = open_fds()
    async with backend.listening():
        with pytest.raises(trio.BrokenResourceError):
            async with connect(path):
                pass
    assert open_fds() == before


@pytest.mark.parametrize(
    "at",
    [
        Request.GET_FEATURES,
        Request.GET_PROTOCOL_FEATURES,
        Request.GET_QUEUE_NUM,
        Request.SET_BACKEND_REQ_FD,
    ],
)
async def test_cancelled_handshake_leaves_nothing_behind(path: Path, at: Request) -> None:
    backend = Scripted(path, Has.MQ | Has.BACKEND_REQ | Has.REPLY_ACK, stalls_at=at)
    before = open_fds()
    async with backend.listening(), trio.open_nursery() as nursery:
        nursery.start_soon(connect(path).__aenter__)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert open_fds() == before


async def test_refused_back_channel_is_the_peers_refusal(path: Path) -> None:
    backend = Scripted(path, Has.BACKEND_REQ | Has.REPLY_ACK)
    backend.answers[Request.SET_BACKEND_REQ_FD] = Number(1)
    before = open_fds()
    async with backend.listening():
        with pytest.raises(NegotiationError, match="refused SET_BACKEND_REQ_FD"):
            async with connect(path):
                pass
    assert open_fds() == before


async def test_backend_that_answers_nonsense_is_to_blame(path: Path) -> None:
    backend = Scripted(path, answers={Request.GET_FEATURES: EMPTY})
    async with backend.listening():
        with pytest.raises(PeerError, match="reply to GET_FEATURES"):
            async with connect(path):
                pass


async def test_nobody_listening_is_the_worlds_fault(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with connect(path):
            pass


async def test_leaving_leaves_no_descriptor(path: Path) -> None:
    before = open_fds()
    backend = Scripted(path, Has.MQ | Has.BACKEND_REQ | Has.REPLY_ACK)
    async with backend.listening(), connect(path) as link, Driver(link):
        pass
    assert open_fds() == before


async def test_error_of_the_body_comes_out_as_it_is(path: Path) -> None:
    backend = Scripted(path)
    async with backend.listening():
        with pytest.raises(KeyError):
            async with connect(path):
                raise KeyError


async def test_driver_without_trio_runs_in_a_thread(path: Path) -> None:
    backend = Scripted(path, Has.STATUS | Has.REPLY_ACK)

    def drive(link: VhostUserLink) -> int:
        with SyncDriver(link) as driver:
            return driver.queues

    async with backend.listening(), connect(path) as link:
        assert await trio.to_thread.run_sync(drive, link) == 1
