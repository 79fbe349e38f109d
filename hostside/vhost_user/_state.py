"""A device's state on its way from one backend to the next."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import trio

from paravirt.transport import NegotiationError, PeerError
from paravirt.transport.vhost_user.payloads import StateDirection

if TYPE_CHECKING:
    from paravirt.transport.vhost_user import StatePipe

    from .._device import Device
    from ._rings import Rings

__all__ = ()  # of use to this room only

VERSION = 1

_log = logging.getLogger("paravirt.vhost_user")


class SavedDevice(msgspec.Struct, frozen=True):
    """What goes through the pipe, as MessagePack."""

    version: int
    """Of this document, 1; the device's own has its own."""
    device_id: int
    state: bytes
    """What `Device.save_state` returned."""


class Transfer:
    """Saves and loads the state of one device, one transfer at a time."""

    def __init__(self, device: Device, rings: Rings) -> None:
        self._device = device
        self._rings = rings
        self._put, self._jobs = trio.open_memory_channel[tuple[StateDirection, "StatePipe"]](1)
        self._ended = trio.Event()
        self._ended.set()
        self._well = False

    def begin(self, direction: StateDirection, pipe: StatePipe) -> None:
        """Start a transfer; takes over the pipe. Raises `PeerError` while another goes on."""
        if not self._ended.is_set():
            pipe.close()
            raise PeerError("the device's state was to be transferred twice at a time")
        self._ended = trio.Event()
        self._well = False
        self._put.send_nowait((direction, pipe))

    async def ended_well(self) -> bool:
        """Wait for the end of the transfer, if one goes on; False if there was none, too."""
        await self._ended.wait()
        return self._well

    async def run(self) -> None:
        """Carry out transfers, for ever; what goes wrong is one line in the log."""
        async for direction, pipe in self._jobs:
            with pipe:
                try:
                    await (self._save if direction is StateDirection.SAVE else self._load)(pipe)
                    self._well = True
                except (PeerError, OSError) as error:
                    _log.warning("the device's state was not transferred: %s", error)
                except Exception:  # noqa: BLE001
                    _log.exception("the device's state was not transferred: the device failed")
            self._ended.set()

    async def _save(self, pipe: StatePipe) -> None:
        state = self._device.save_state()
        saved = SavedDevice(VERSION, self._device.device_id, state)
        await pipe.send(msgspec.msgpack.encode(saved))

    async def _load(self, pipe: StatePipe) -> None:
        data = await pipe.receive()
        try:
            saved = msgspec.msgpack.decode(data, type=SavedDevice)
        except msgspec.DecodeError as error:
            raise NegotiationError(f"this is no device's state: {error}") from None
        if (saved.version, saved.device_id) != (VERSION, self._device.device_id):
            raise NegotiationError(
                f"a state of version {saved.version} of a device of type {saved.device_id}, not of"
                f" version {VERSION} of type {self._device.device_id}"
            )
        if self._rings.running:
            raise PeerError("a device's state was loaded while queues run")
        self._device.load_state(saved.state)
