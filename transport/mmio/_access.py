"""What goes into a register block and what comes out, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from ._registers import Refusal
    from ._state import MmioState


class Access(msgspec.Struct, frozen=True):
    """One load or store of the driver."""

    offset: int
    width: int
    """Bytes."""
    value: int | None = None
    """What is stored; None for a load."""


class Kicked(msgspec.Struct, frozen=True):
    """The driver kicked a queue that is in use."""

    queue: int


class Started(msgspec.Struct, frozen=True):
    """DRIVER_OK: the enabled queues run from now on."""


class ResetBegun(msgspec.Struct, frozen=True):
    """The driver resets; the status reads 0 after `MmioState.reset_done`."""


class QueueStopped(msgspec.Struct, frozen=True):
    """The driver takes a queue back, which stays ready until `MmioState.queue_stopped`."""

    queue: int


class ConfigWritten(msgspec.Struct, frozen=True):
    """The driver wrote to the configuration space."""

    offset: int
    data: bytes


Effect: TypeAlias = Kicked | Started | ResetBegun | QueueStopped | ConfigWritten


class Answer(msgspec.Struct, frozen=True):
    """What comes of an access."""

    state: MmioState
    value: int = 0
    """What a load gives."""
    effect: Effect | None = None
    """What the device's side has to do now."""
    refusal: Refusal | None = None
    """Why the access had no effect."""
