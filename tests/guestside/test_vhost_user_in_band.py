"""Notifications in band: the frontend's end of them, against a backend that does as it is told."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.guestside import DeviceNeedsReset, Driver
from paravirt.guestside.vhost_user import connect_vhost_user
from paravirt.transport import NegotiationError
from paravirt.transport.vhost_user import BackendRequest, ProtocolFeature as Has, Request
from paravirt.transport.vhost_user.payloads import Number, VringState

from .backend import Scripted

if TYPE_CHECKING:
    from pathlib import Path

AGREED = Has.INBAND_NOTIFICATIONS | Has.BACKEND_REQ | Has.REPLY_ACK
BELLS = {Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR}
connect = partial(connect_vhost_user, memory_size=1 << 20, queue_size=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


async def say(backend: Scripted, request: BackendRequest, queue: int, value: int = 0) -> None:
    """Send a notification over the back channel; it is refused by `NegotiationError`."""
    assert backend.back is not None
    (await backend.back.request(request, VringState(queue, value))).close()


async def test_nothing_is_in_band_unless_asked_for(path: Path) -> None:
    backend = Scripted(path, AGREED)
    async with backend.listening(), connect(path) as link, Driver(link):
        assert not link.session.in_band

    assert set(backend.asked) >= BELLS


async def test_queue_that_is_driven_in_band_has_no_descriptors(path: Path) -> None:
    backend = Scripted(path, AGREED)
    async with backend.listening(), connect(path, in_band=True) as link, Driver(link):
        pass

    assert not BELLS & set(backend.asked)
    assert Request.SET_VRING_ENABLE in backend.asked


async def test_kick_goes_out_as_a_message_that_is_acknowledged(path: Path) -> None:
    """REPLY_ACK is used with them, "to block until they are processed"."""
    backend = Scripted(path, AGREED | Has.MQ)
    async with backend.listening(), connect(path, in_band=True) as link, Driver(link) as driver:
        driver.submit(b"hello", queue=1)
        while Request.VRING_KICK not in backend.asked:
            await trio.lowlevel.checkpoint()

        assert backend.values[Request.VRING_KICK] == VringState(1, 0)
        assert Request.VRING_KICK in backend.acknowledged


async def test_refused_kick_breaks_the_queue(path: Path) -> None:
    backend = Scripted(path, AGREED, {Request.VRING_KICK: Number(1)})
    async with backend.listening(), connect(path, in_band=True) as link, Driver(link) as driver:
        with pytest.raises(DeviceNeedsReset):
            await driver.request(b"hello")


async def test_queue_that_breaks_is_told_of_in_band(path: Path) -> None:
    backend = Scripted(path, AGREED)
    async with (
        backend.listening(),
        connect(path, in_band=True) as link,
        Driver(link) as driver,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(say, backend, BackendRequest.VRING_ERR, 0)
        with pytest.raises(DeviceNeedsReset):
            await driver.request(b"hello")


@pytest.mark.parametrize(("queue", "value"), [(1, 0), (0, 1)])
async def test_call_that_makes_no_sense_is_refused(path: Path, queue: int, value: int) -> None:
    backend = Scripted(path, AGREED)
    async with backend.listening(), connect(path, in_band=True) as link, Driver(link):
        with pytest.raises(NegotiationError):
            await say(backend, BackendRequest.VRING_CALL, queue, value)
        await say(backend, BackendRequest.VRING_CALL, 0)


async def test_call_that_was_not_agreed_on_is_refused(path: Path) -> None:
    backend = Scripted(path, AGREED)
    async with backend.listening(), connect(path) as link, Driver(link):
        with pytest.raises(NegotiationError):
            await say(backend, BackendRequest.VRING_CALL, 0)


@pytest.mark.parametrize("lacking", Has.INBAND_NOTIFICATIONS | Has.BACKEND_REQ | Has.REPLY_ACK)
async def test_backend_that_lacks_what_it_takes_is_refused(path: Path, lacking: Has) -> None:
    """Agreeing on it alone is an error, so nothing is agreed on."""
    backend = Scripted(path, AGREED & ~lacking)
    async with backend.listening():
        with pytest.raises(NegotiationError, match=lacking.words[0]):
            async with connect(path, in_band=True):
                pass

    assert Request.SET_PROTOCOL_FEATURES not in backend.asked
