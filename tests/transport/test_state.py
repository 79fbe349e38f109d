"""Features and configuration by the rules of virtio 1.4."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import pytest

from paravirt.transport._features import Dependency, Feature
from paravirt.transport._state import DeviceState

from .negotiation import (
    ACK,
    AVAIL,
    DESC,
    DISCARD,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    OFFERED,
    USED,
    V1,
    ZEROES,
    assert_refused,
    device,
    device_at,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("features", [V1, OFFERED, V1 | DISCARD])
def test_a_valid_subset_is_accepted(features: int) -> None:
    """2.2.2."""
    state = device_at(DRIVER)
    state.set_driver_features(features)
    assert state.features == 0
    state.set_status(FEATURES_OK)

    assert state.status == FEATURES_OK
    assert state.features == features
    assert state.refusal is None


@pytest.mark.parametrize(
    ("features", "refusal"),
    [
        (0, "VERSION_1 was not accepted"),
        (OFFERED & ~V1, "VERSION_1 was not accepted"),
        (V1 | Feature.RING_PACKED, "accepted but not offered: packed ring"),
        (V1 | 1 << 63, "accepted but not offered: bit 63"),
        (V1 | ZEROES, "bit 14 needs bit 13"),
    ],
)
def test_features_that_cannot_work_leave_features_ok_off(features: int, refusal: str) -> None:
    """2.2.1, 2.2.2, 6.2: the driver sees it when it reads the status again."""
    state = device_at(DRIVER)
    state.set_driver_features(features)
    state.set_status(FEATURES_OK)

    assert state.status == DRIVER
    assert state.features == 0
    assert state.refusal == refusal


def test_a_device_that_offers_flags_sees_bits_beyond_them() -> None:
    """2.2.2; the complement of an `IntFlag` ends at its highest member."""

    class Offer(enum.IntFlag):
        VERSION_1 = V1
        DISCARD = DISCARD

    state = DeviceState(2, Offer.VERSION_1 | Offer.DISCARD, (64,), b"")
    state.set_status(DRIVER)
    state.set_driver_features(V1 | 1 << 63)
    state.set_status(FEATURES_OK)

    assert state.status == DRIVER


# What a driver might try after its features were refused, and the clause that forbids it.
SECOND_TRIES: list[tuple[str, Callable[[DeviceState], None]]] = [
    ("2.2", lambda state: state.set_status(FEATURES_OK)),
    ("3.1.1", lambda state: state.set_driver_features(V1)),
    ("2.2", lambda state: state.set_status(DRIVER_OK)),
    ("3.1.1", lambda state: state.set_queue(0, 64, DESC, AVAIL, USED)),
]


@pytest.mark.parametrize(("clause", "access"), SECOND_TRIES)
def test_refused_features_are_renegotiated_only_after_a_reset(
    clause: str, access: Callable[[DeviceState], None]
) -> None:
    """2.2."""
    state = device_at(DRIVER)
    state.set_driver_features(0)
    state.set_status(FEATURES_OK)

    assert_refused(state, clause, lambda: access(state))


def test_the_same_features_are_accepted_again_after_a_reset() -> None:
    """2.2.2."""
    state = device_at(DRIVER_OK)
    state.begin_reset()
    state.finish_reset()
    state.set_status(DRIVER)
    state.set_driver_features(V1)
    state.set_status(FEATURES_OK)

    assert state.features == V1


@pytest.mark.parametrize("status", [0, ACK])
def test_features_come_after_driver(status: int) -> None:
    """3.1.1, step 4."""
    state = device_at(status)

    assert_refused(state, "3.1.1", lambda: state.set_driver_features(V1))


@pytest.mark.parametrize("status", [FEATURES_OK, DRIVER_OK])
def test_features_are_frozen_by_features_ok(status: int) -> None:
    """3.1.1, step 5."""
    state = device_at(status)

    assert_refused(state, "3.1.1", lambda: state.set_driver_features(OFFERED))


@pytest.mark.parametrize("features", [-1, 1 << 64])
def test_features_beyond_64_bits_are_refused(features: int) -> None:
    """2.2.1: they were not offered."""
    state = device_at(DRIVER)

    assert_refused(state, "2.2.1", lambda: state.set_driver_features(features))


@pytest.mark.parametrize("status", [0, ACK, DRIVER, FEATURES_OK, DRIVER_OK])
def test_the_configuration_is_readable_at_any_time(status: int) -> None:
    """2.5.2."""
    state = device_at(status)
    state.set_config(b"abcdefgh")

    assert state.read_config(2, 3) == b"cde"


def test_a_read_is_short_at_the_end_of_the_configuration() -> None:
    """2.5.1: a driver may know more fields than the device has."""
    state = device()

    assert len(state.read_config(4, 100)) == 4
    assert state.read_config(9, 1) == b""
    with pytest.raises(ValueError):
        state.read_config(-1, 1)


@pytest.mark.parametrize(("status", "owed"), [(0, False), (FEATURES_OK, False), (DRIVER_OK, True)])
def test_a_change_counts_and_notifies_a_live_driver(status: int, owed: bool) -> None:
    """2.5, 3.2.1; 2.4.1: no notification before the device is initialized."""
    state = device_at(status)

    assert state.set_config(b"abcdefgh") is owed
    assert state.generation == 1


def test_the_configuration_keeps_its_length() -> None:
    state = device()
    with pytest.raises(ValueError, match="7 bytes for a space of 8"):
        state.set_config(bytes(7))

    assert state.generation == 0


@pytest.mark.parametrize("status", [0, ACK, DRIVER])
def test_the_configuration_is_not_written_while_features_are_selected(status: int) -> None:
    """3.1.1, step 4."""
    state = device_at(status)

    assert_refused(state, "3.1.1", lambda: state.check_config_write(0, 1))


@pytest.mark.parametrize(("offset", "length"), [(8, 1), (0, 9), (-1, 1), (2**64, 1)])
def test_a_write_outside_of_the_configuration_is_refused(offset: int, length: int) -> None:
    """2.5, 4.2.2.2."""
    state = device_at(DRIVER_OK)
    state.check_config_write(0, 8)

    assert_refused(state, "2.5", lambda: state.check_config_write(offset, length))


@pytest.mark.parametrize(
    ("device_id", "features", "sizes"),
    [
        (0, V1, [64]),  # reserved (5)
        (1 << 32, V1, [64]),
        (2, 0, [64]),  # 6.2
        (2, DISCARD, [64]),
        (2, V1 | 1 << 64, [64]),
        (2, V1 | Feature.IN_ORDER, [64]),  # 2.2.2
        (2, V1 | ZEROES, [64]),  # 2.2.2
        (2, V1, [0]),  # 2.7
        (2, V1, [64, 100]),
        (2, V1, [65536]),
        (2, V1, [1] * 65537),  # 2.6
    ],
)
def test_a_device_that_virtio_forbids_is_your_mistake(
    device_id: int, features: int, sizes: list[int]
) -> None:
    """2.2.2, 2.6, 2.7, 6.2."""
    with pytest.raises(ValueError):
        DeviceState(device_id, features, sizes, b"", dependencies=[Dependency(ZEROES, DISCARD)])
