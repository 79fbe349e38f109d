"""What each register does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec.structs import replace

from .._errors import NegotiationError
from .._queues import QueueState
from .._state import Status
from ._access import Access, Answer, ConfigWritten, Kicked, QueueStopped, ResetBegun, Started
from ._registers import Refusal, Register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._state import DeviceState
    from ._state import MmioState

__all__ = ("CONFIG", "access")

MAGIC: Final = 0x74726976  # "virt"
VERSION: Final = 2
VENDOR: Final = 0x76767076  # "vpvv": nobody assigns these
CONFIG: Final = 0x100
"""Where the configuration space begins."""
_WORD: Final = 4
_CONFIG_WIDTHS: Final = (1, 2, 4, 8)
_LOW: Final = 0xFFFFFFFF


def access(state: MmioState, access: Access) -> Answer:
    """Do one access."""
    try:
        if access.offset >= CONFIG:
            return _access_config(state, access)
        if access.width != _WORD or access.offset % _WORD:
            return Answer(state, refusal=Refusal.WIDTH)
        if access.offset not in _READS and access.offset not in _WRITES:
            return Answer(state, refusal=Refusal.UNKNOWN)
        if access.value is None:
            read = _READS.get(access.offset)
            return Answer(state, read(state)) if read else _refuse(state, Refusal.WRITE_ONLY)
        write = _WRITES.get(access.offset)
        return write(state, access.value & _LOW) if write else _refuse(state, Refusal.READ_ONLY)
    except NegotiationError:
        return Answer(state, refusal=Refusal.NEGOTIATION)


def _refuse(state: MmioState, refusal: Refusal) -> Answer:
    return Answer(state, refusal=refusal)


def _access_config(state: MmioState, access: Access) -> Answer:
    offset, width = access.offset - CONFIG, access.width
    if width not in _CONFIG_WIDTHS or offset % width:
        return _refuse(state, Refusal.WIDTH)
    if offset + width > len(state.device.config):
        return _refuse(state, Refusal.CONFIG)
    if access.value is None:
        return Answer(state, int.from_bytes(state.device.read_config(offset, width), "little"))
    state.device.check_config_write(offset, width)
    data = (access.value & (1 << 8 * width) - 1).to_bytes(width, "little")
    return Answer(state, effect=ConfigWritten(offset, data))


# Loads.


def _half(number: int, sel: int) -> int:
    """Return the half of a 64-bit number that a selector chooses; there are only two."""
    return number >> 32 * sel & _LOW if sel < 2 else 0


def _queue(state: MmioState) -> QueueState | None:
    index = state.registers.queue_sel
    return state.device.queues[index] if index < len(state.device.queues) else None


def _size_max(state: MmioState) -> int:
    queue = _queue(state)
    return queue.max_size if queue else 0


def _ready(state: MmioState) -> int:
    queue = _queue(state)
    return int(queue is not None and queue.enabled)


def _no_region(_: MmioState) -> int:
    return _LOW  # the length of a shared memory region that does not exist is -1 (4.2.2)


_READS: Final[dict[int, Callable[[MmioState], int]]] = {
    Register.MAGIC_VALUE: lambda _: MAGIC,
    Register.VERSION: lambda _: VERSION,
    Register.DEVICE_ID: lambda state: state.device.device_id,
    Register.VENDOR_ID: lambda _: VENDOR,
    Register.DEVICE_FEATURES: lambda state: _half(
        state.device.device_features, state.registers.device_features_sel
    ),
    Register.QUEUE_SIZE_MAX: _size_max,
    Register.QUEUE_READY: _ready,
    Register.INTERRUPT_STATUS: lambda state: state.registers.interrupt,
    Register.STATUS: lambda state: int(state.device.status),
    Register.SHM_LEN_LOW: _no_region,
    Register.SHM_LEN_HIGH: _no_region,
    Register.SHM_BASE_LOW: _no_region,
    Register.SHM_BASE_HIGH: _no_region,
    Register.CONFIG_GENERATION: lambda state: state.device.generation,
}

# Stores.

_Write: TypeAlias = "Callable[[MmioState, int], Answer]"


def _select(name: str) -> _Write:
    return lambda state, value: Answer(state.having(**{name: value}))


def _driver_features(state: MmioState, value: int) -> Answer:
    sel, before = state.registers.driver_features_sel, state.registers.driver_features
    if sel > 1:  # there are no features beyond bit 63 to accept
        return Answer(state) if not value else _refuse(state, Refusal.VALUE)
    shift = 32 * sel
    features = before & ~(_LOW << shift) | value << shift
    after = state.changed(lambda device: device.set_driver_features(features))
    return Answer(after.having(driver_features=features))


def _queue_field(name: str, shift: int | None = None) -> _Write:
    """Return what stores a number of the selected queue, or one half of an address."""

    def write(state: MmioState, value: int) -> Answer:
        queue, index = _queue(state), state.registers.queue_sel
        if queue is None:
            return _refuse(state, Refusal.NO_QUEUE)
        if queue.enabled:
            return _refuse(state, Refusal.QUEUE_READY)
        queues = list(state.registers.queues)
        if shift is not None:
            value = getattr(queues[index], name) & ~(_LOW << shift) | value << shift
        queues[index] = replace(queues[index], **{name: value})
        return Answer(state.having(queues=tuple(queues)))

    return write


def _write_ready(state: MmioState, value: int) -> Answer:
    queue, index = _queue(state), state.registers.queue_sel
    if queue is None:
        return _refuse(state, Refusal.NO_QUEUE)
    if value > 1:
        return _refuse(state, Refusal.VALUE)
    if value == 0:
        return _stop(state, index) if queue.enabled else Answer(state)
    if queue.enabled:
        return Answer(state)
    row = state.registers.queues[index]
    wanted = QueueState(queue.max_size, row.size, row.desc, row.driver, row.device)
    if not all(_within(state.memory, part) for part in wanted.parts()):
        return _refuse(state, Refusal.ADDRESS)

    def enable(device: DeviceState) -> None:
        device.set_queue(index, row.size, row.desc, row.driver, row.device)
        device.enable_queue(index)

    return Answer(state.changed(enable))


def _stop(state: MmioState, index: int) -> Answer:
    if state.device.resetting:
        return _refuse(state, Refusal.NEGOTIATION)
    if state.device.live:
        return Answer(state, effect=QueueStopped(index))
    return Answer(state.queue_stopped(index))


def _within(memory: tuple[range, ...], part: range) -> bool:
    return any(whole.start <= part.start and part.stop <= whole.stop for whole in memory)


def _notify(state: MmioState, value: int) -> Answer:
    if value >= len(state.device.queues):
        return _refuse(state, Refusal.NO_QUEUE)
    if not state.device.live or not state.device.queues[value].enabled:
        return _refuse(state, Refusal.QUEUE_NOT_READY)
    return Answer(state, effect=Kicked(value))


def _acknowledge(state: MmioState, value: int) -> Answer:
    return Answer(state.having(interrupt=state.registers.interrupt & ~value))


def _status(state: MmioState, value: int) -> Answer:
    after = state.changed(lambda device: device.set_status(value))
    if value == 0:
        begun = state.device.status and not state.device.resetting
        return Answer(after, effect=ResetBegun() if begun else None)
    started = after.device.live and Status.DRIVER_OK not in state.device.status
    return Answer(after, effect=Started() if started else None)


_WRITES: Final[dict[int, _Write]] = {
    Register.DEVICE_FEATURES_SEL: _select("device_features_sel"),
    Register.DRIVER_FEATURES: _driver_features,
    Register.DRIVER_FEATURES_SEL: _select("driver_features_sel"),
    Register.QUEUE_SEL: _select("queue_sel"),
    Register.QUEUE_SIZE: _queue_field("size"),
    Register.QUEUE_READY: _write_ready,
    Register.QUEUE_NOTIFY: _notify,
    Register.INTERRUPT_ACK: _acknowledge,
    Register.STATUS: _status,
    Register.QUEUE_DESC_LOW: _queue_field("desc", 0),
    Register.QUEUE_DESC_HIGH: _queue_field("desc", 32),
    Register.QUEUE_DRIVER_LOW: _queue_field("driver", 0),
    Register.QUEUE_DRIVER_HIGH: _queue_field("driver", 32),
    Register.QUEUE_DEVICE_LOW: _queue_field("device", 0),
    Register.QUEUE_DEVICE_HIGH: _queue_field("device", 32),
    Register.SHM_SEL: lambda state, _: Answer(state),  # there are no regions to select
}
