"""A device, and the way to any stage of its negotiation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.transport._errors import NegotiationError
from paravirt.transport._features import TRANSPORT_FEATURES, Dependency, Feature
from paravirt.transport._state import DeviceState

if TYPE_CHECKING:
    from collections.abc import Callable

V1 = Feature.VERSION_1
DISCARD, ZEROES = 1 << 13, 1 << 14
OFFERED = TRANSPORT_FEATURES | DISCARD | ZEROES
ACK, DRIVER, FEATURES_OK, DRIVER_OK = 1, 3, 11, 15  # the status after each step
SUSPEND, NEEDS_RESET, FAILED = 16, 64, 128
DESC, AVAIL, USED = 0x1000, 0x2000, 0x3000


def device() -> DeviceState:
    return DeviceState(
        2, OFFERED, (256, 64), bytes(8), dependencies=[Dependency(ZEROES, any_of=DISCARD)]
    )


def device_at(status: int, *, queues: int = 0) -> DeviceState:
    """Lead a new device up to a status, with the first queues enabled."""
    state = device()
    for step in (step for step in (ACK, DRIVER, FEATURES_OK) if step <= status):
        state.set_status(step)
        if step == DRIVER:
            state.set_driver_features(V1)
    for index in range(queues):
        base = index * 0x10000
        state.set_queue(index, 64, base + DESC, base + AVAIL, base + USED)
        state.enable_queue(index)
    if status == DRIVER_OK:
        state.set_status(DRIVER_OK)
    return state


def assert_refused(state: DeviceState, clause: str, access: Callable[[], object]) -> None:
    """Check that the access raises, names its clause, and leaves no trace."""
    before = state.snapshot()
    with pytest.raises(NegotiationError) as caught:
        access()

    assert caught.value.clause == clause
    assert state.snapshot() == before


# One of each kind of access by which a driver changes the state.
ACCESSES: dict[str, Callable[[DeviceState], None]] = {
    "status": lambda state: state.set_status(FEATURES_OK | FAILED),
    "features": lambda state: state.set_driver_features(V1),
    "config": lambda state: state.check_config_write(0, 1),
    "queue": lambda state: state.set_queue(0, 64, DESC, AVAIL, USED),
    "enable": lambda state: state.enable_queue(0),
}
