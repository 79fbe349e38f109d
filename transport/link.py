"""The two ends of a link, as protocols: all that a server and a driver need of a transport.

A link holds the memory, the device's state and the doorbells; loopback, vhost-user and KVM are ways
to make one. Rings never ring: whoever publishes is told whether to, and rings the doorbell that the
link has for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paravirt.doorbells import Doorbell

    from ._config import ConfigSpace
    from ._device_ring import DeviceRing
    from ._memory import Memory
    from ._state import Status


class DeviceModel(Protocol):
    """What a link must know of a device before any driver comes; `hostside.Device` fulfils it."""

    @property
    def device_id(self) -> int:
        """The device type (virtio 1.4, 5)."""
        ...

    @property
    def queue_sizes(self) -> Sequence[int]:
        """The largest size of each queue."""
        ...

    @property
    def features(self) -> int:
        """The feature bits of the device type that are offered."""
        ...

    @property
    def config(self) -> ConfigSpace:
        """The configuration space."""
        ...


@dataclass(frozen=True)
class QueueStart:
    """The driver runs a queue from now on."""

    queue: int
    ring: DeviceRing
    kick: Doorbell
    call: Doorbell


@dataclass(frozen=True)
class QueueStop:
    """The driver's side stops a queue; call `done` when all that was taken is completed.

    Nothing new is taken, and after `done` nothing touches the ring until the queue starts again.
    """

    queue: int
    done: Callable[[], None]
    suspend: bool = False
    """Cancel what is waited for, and do not give it back: the ring's inflight table says what it
    is, and whoever starts the queue again takes it up."""


@dataclass(frozen=True)
class DriverReady:
    """DRIVER_OK: the device may do things of its own accord."""


@dataclass(frozen=True)
class ConfigWrite:
    """The driver writes to the configuration space; answer with `done`."""

    offset: int
    data: bytes
    done: Callable[..., None]
    """Called with no argument, or with the error that refuses the write."""


@dataclass(frozen=True)
class Reset:
    """The driver resets; call `done` when nothing touches its memory any more (2.4.1)."""

    done: Callable[[], None]


Change = QueueStart | QueueStop | DriverReady | ConfigWrite | Reset


class DeviceLink(Protocol):
    """The device's end of a link; used by one server, in one trio run."""

    async def next_change(self) -> Change | None:
        """Wait for what the driver does next; None when its end is gone, or this one closed.

        Cancelled, it has taken nothing.
        """
        ...

    def set_config(self, config: bytes) -> None:
        """Replace the configuration space and notify the driver (2.5)."""
        ...

    def need_reset(self) -> None:
        """Set DEVICE_NEEDS_RESET and notify the driver (2.1.2)."""
        ...

    def signal_error(self, queue: int) -> None:
        """Tell the driver's side, where it can be told, that a queue broke."""
        ...

    def close_device_end(self) -> None:
        """Close this end; idempotent. The driver's end then raises `trio.BrokenResourceError`."""
        ...


class DriverLink(Protocol):
    """The driver's end of a link.

    Every async method raises `NegotiationError` for what the device refuses, and
    `trio.BrokenResourceError` when the device's end is gone. Cancelled, a write may have been done
    or not, and may be done later still.
    """

    @property
    def memory(self) -> Memory:
        """The memory that both sides share."""
        ...

    @property
    def pool(self) -> tuple[int, int]:
        """Address and size of the part of it that the driver may give out."""
        ...

    @property
    def device_id(self) -> int:
        """The device type (virtio 1.4, 5)."""
        ...

    @property
    def device_features(self) -> int:
        """All feature bits that the device offers."""
        ...

    @property
    def queue_sizes(self) -> Sequence[int]:
        """The largest size of each queue."""
        ...

    @property
    def concurrent(self) -> bool:
        """Whether the device runs in another thread, process or machine than the caller."""
        ...

    @property
    def needs_reset(self) -> bool:
        """Whether the device said that it goes on only after a reset (2.1.2)."""
        ...

    @property
    def gone(self) -> bool:
        """Whether the device's end is closed."""
        ...

    @property
    def changed(self) -> Doorbell:
        """Rung when the configuration space or the status changed from the device's side."""
        ...

    def kick(self, queue: int) -> Doorbell:
        """Return the doorbell that the driver rings for a queue."""
        ...

    def call(self, queue: int) -> Doorbell:
        """Return the doorbell that the driver waits on for a queue; it rings it to stop waiting."""
        ...

    async def get_status(self) -> Status:
        """Read the device status; 0 once a reset is done (2.4.2)."""
        ...

    async def set_status(self, status: int) -> None:
        """Write the device status; 0 resets."""
        ...

    async def set_features(self, features: int) -> None:
        """Accept features (2.2)."""
        ...

    async def set_queue(self, queue: int, size: int, desc: int, driver: int, device: int) -> None:
        """Give a queue its size and addresses, and enable it."""
        ...

    async def read_config(self, offset: int, size: int) -> tuple[bytes, int]:
        """Return bytes of the configuration space, and its generation."""
        ...

    async def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space, and wait until the device took it."""
        ...
