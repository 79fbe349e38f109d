"""State as data: stored, and taken back only if it obeys the rules."""

from __future__ import annotations

import msgspec
import pytest

from paravirt.transport._errors import NegotiationError
from paravirt.transport._features import Feature
from paravirt.transport._queues import QueueState
from paravirt.transport._state import DeviceSnapshot, DeviceState

from .negotiation import (
    ACK,
    DESC,
    DISCARD,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    V1,
    device,
    device_at,
)


def refused_features() -> DeviceState:
    state = device_at(DRIVER)
    state.set_driver_features(DISCARD)
    state.set_status(FEATURES_OK)
    return state


def worn() -> DeviceState:
    state = device_at(DRIVER_OK, queues=2)
    state.set_config(b"abcdefgh")
    state.need_reset()
    state.set_status(DRIVER_OK | FAILED)
    state.begin_reset()
    return state


@pytest.mark.parametrize(
    "state",
    [
        device(),
        device_at(ACK),
        device_at(DRIVER),
        device_at(FEATURES_OK, queues=1),
        device_at(DRIVER_OK, queues=2),
        refused_features(),
        worn(),
    ],
)
def test_a_state_survives_being_stored(state: DeviceState) -> None:
    stored = msgspec.json.encode(state.snapshot())
    other = device()
    other.restore(msgspec.json.decode(stored, type=DeviceSnapshot))

    assert other.snapshot() == state.snapshot()


def changed_queue(**changes: object) -> dict[str, object]:
    first, second = device_at(DRIVER_OK, queues=2).queues
    return {"queues": (msgspec.structs.replace(first, **changes), second)}


@pytest.mark.parametrize(
    "changes",
    [
        {"device_id": 3},
        {"config": bytes(9)},
        {"generation": -1},
        {"generation": 2**32},
        {"status": 4},
        {"status": DRIVER_OK | 16},
        {"status": DRIVER_OK | 32},
        {"status": -1},
        {"status": 0},
        {"status": 0, "resetting": True},
        {"features_final": False},
        {"driver_features": 0},
        {"driver_features": V1 | Feature.RING_PACKED},
        {"driver_features": 2**64},
        {"queues": ()},
        {"queues": (*device_at(DRIVER_OK, queues=2).queues, QueueState(64))},
        changed_queue(max_size=512),
        changed_queue(size=512),
        changed_queue(size=0),
        changed_queue(size=3),
        changed_queue(desc=DESC + 1),
        changed_queue(device=2**64),
        changed_queue(desc=0x11000),
    ],
)
def test_a_snapshot_that_no_driver_could_reach_is_refused(changes: dict[str, object]) -> None:
    """State from elsewhere obeys the rules that the driver obeys."""
    good = device_at(DRIVER_OK, queues=2).snapshot()
    state = device()
    before = state.snapshot()
    with pytest.raises(NegotiationError):
        state.restore(msgspec.structs.replace(good, **changes))

    assert state.snapshot() == before
