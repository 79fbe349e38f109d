"""A register block at one moment, as data."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from .._errors import NegotiationError
from .._state import DeviceSnapshot, DeviceState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._registers import Interrupt


class QueueRegisters(msgspec.Struct, frozen=True):
    """What the driver wrote for one queue, before it said that the queue is ready."""

    size: int = 0
    desc: int = 0
    driver: int = 0
    device: int = 0


class Registers(msgspec.Struct, frozen=True):
    """What the block remembers beside the device's state."""

    queues: tuple[QueueRegisters, ...]
    device_features_sel: int = 0
    driver_features_sel: int = 0
    driver_features: int = 0
    queue_sel: int = 0
    interrupt: int = 0


class MmioSnapshot(msgspec.Struct, frozen=True):
    """All that a register block remembers. One that was stored elsewhere is not to be trusted."""

    device: DeviceSnapshot
    registers: Registers


class MmioState(msgspec.Struct, frozen=True):
    """A register block at one moment; `access` makes the next one of it."""

    device: DeviceState
    """Not to be changed: make a copy with `changed`."""
    memory: tuple[range, ...]
    """Where queues may lie: sorted, and no two of them touch."""
    registers: Registers

    @classmethod
    def create(cls, device: DeviceState, memory: Iterable[range]) -> MmioState:
        """Begin with a device that no driver has touched, and ranges in any order."""
        joined: list[range] = []
        for part in sorted(memory, key=lambda part: part.start):
            if joined and joined[-1].stop >= part.start:
                joined[-1] = range(joined[-1].start, max(joined[-1].stop, part.stop))
            else:
                joined.append(part)
        queues = (QueueRegisters(),) * len(device.queues)
        return cls(copy.copy(device), tuple(joined), Registers(queues))

    def changed(self, change: Callable[[DeviceState], object]) -> MmioState:
        """Return the state after `change` was done to the device."""
        device = copy.copy(self.device)  # all that it has is replaced and never changed
        change(device)
        return replace(self, device=device)

    def having(self, **registers: int | tuple[QueueRegisters, ...]) -> MmioState:
        """Return the state with other registers."""
        return replace(self, registers=replace(self.registers, **registers))

    def raised(self, bit: Interrupt) -> MmioState:
        """Return the state after an event, which the driver is to be told (4.2.2.1)."""
        return self.having(interrupt=self.registers.interrupt | bit)

    def reset_done(self) -> MmioState:
        """Return the state after the device finished a reset (4.2.2.1)."""
        queues = (QueueRegisters(),) * len(self.registers.queues)
        state = self.changed(DeviceState.finish_reset)
        return replace(state, registers=Registers(queues))

    def queue_stopped(self, queue: int) -> MmioState:
        """Return the state after the device let go of a queue: QueueReady reads 0 (4.2.2.2)."""
        return self.changed(lambda device: device.disable_queue(queue))

    def snapshot(self) -> MmioSnapshot:
        """Return all that `restored` needs."""
        return MmioSnapshot(self.device.snapshot(), self.registers)

    def restored(self, snapshot: MmioSnapshot) -> MmioState:
        """Return the state that an equal block had. The snapshot is not trusted.

        Raises `NegotiationError` for one of another device, or that no driver could have led to.
        """
        registers = snapshot.registers
        rows = [registers, *registers.queues]
        numbers = [value for row in rows for value in msgspec.structs.astuple(row)]
        if not all(0 <= value < 1 << 64 for value in numbers if isinstance(value, int)):
            raise NegotiationError("a register does not fit into 64 bits")
        if len(registers.queues) != len(self.device.queues):
            raise NegotiationError(
                f"registers of {len(registers.queues)} queues, the device has"
                f" {len(self.device.queues)}"
            )
        return replace(
            self.changed(lambda device: device.restore(snapshot.device)), registers=registers
        )
