"""The device status: its order, its reset, and what only the device may say."""

from __future__ import annotations

import pytest

from .negotiation import (
    ACCESSES,
    ACK,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    NEEDS_RESET,
    SUSPEND,
    V1,
    assert_refused,
    device,
    device_at,
)


def test_a_device_starts_with_status_0() -> None:
    """2.1."""
    assert device().status == 0
    assert not device().live


def test_the_steps_in_order_make_a_device_live() -> None:
    """3.1.1: ACKNOWLEDGE, DRIVER, features, FEATURES_OK, queues, DRIVER_OK."""
    state = device_at(DRIVER_OK, queues=2)

    assert state.status == DRIVER_OK
    assert state.live
    assert state.features == V1
    assert [queue.enabled for queue in state.queues] == [True, True]


def test_acknowledge_and_driver_may_come_in_one_write() -> None:
    """3.1.1 orders the steps; nothing happens between these two."""
    state = device()
    state.set_status(DRIVER)

    assert state.status == DRIVER


@pytest.mark.parametrize("value", [ACK, DRIVER, FEATURES_OK])
def test_writing_the_same_status_again_changes_nothing(value: int) -> None:
    state = device_at(value)
    before = state.snapshot()
    state.set_status(value)

    assert state.snapshot() == before


@pytest.mark.parametrize(
    ("status", "value", "clause"),
    [
        (0, 2, "3.1.1"),  # DRIVER before ACKNOWLEDGE
        (ACK, 1 | 8, "3.1.1"),  # FEATURES_OK before DRIVER
        (DRIVER, 3 | 4, "3.1.1"),  # DRIVER_OK before FEATURES_OK
        (DRIVER, 15, "3.1.1"),  # both at once: FEATURES_OK was not re-read
        (FEATURES_OK, 3, "2.1.1"),
        (DRIVER_OK, 11, "2.1.1"),
        (DRIVER_OK, 4, "2.1.1"),
        (DRIVER, 3 | 64, "2.1"),  # the device's own bit
        (DRIVER, 3 | 32, "2.1"),
        (DRIVER, 3 | 256, "2.1"),
        (DRIVER, -1, "2.1"),
    ],
)
def test_a_status_out_of_order_is_refused(status: int, value: int, clause: str) -> None:
    """2.1.1: no bit is cleared; 3.1.1: each step has its turn."""
    state = device_at(status)

    assert_refused(state, clause, lambda: state.set_status(value))


def test_suspend_is_ignored_as_it_is_never_offered() -> None:
    """3.4.1, 3.4.2."""
    state = device_at(DRIVER_OK)
    state.set_status(DRIVER_OK | SUSPEND)

    assert state.status == DRIVER_OK


def test_failed_is_taken_without_the_steps_beside_it() -> None:
    """3.1.1: after a failure the initialization goes no further."""
    state = device_at(DRIVER)
    state.set_status(FEATURES_OK | FAILED)

    assert state.status == DRIVER | FAILED


@pytest.mark.parametrize("access", ACCESSES)
def test_after_failed_only_a_reset_may_follow(access: str) -> None:
    """2.1.1."""
    state = device_at(DRIVER)
    state.set_status(DRIVER | FAILED)

    assert_refused(state, "2.1.1", lambda: ACCESSES[access](state))


def test_a_live_device_that_needs_a_reset_owes_one_notification() -> None:
    """2.1.2."""
    state = device_at(DRIVER_OK)

    assert state.need_reset()
    assert not state.need_reset()
    assert state.status == DRIVER_OK | NEEDS_RESET


def test_a_device_that_is_not_live_needs_a_reset_in_silence() -> None:
    """2.1.2: the notification is due only with DRIVER_OK."""
    state = device_at(FEATURES_OK)

    assert not state.need_reset()
    assert state.status == FEATURES_OK | NEEDS_RESET


@pytest.mark.parametrize("seen", [0, NEEDS_RESET])
def test_the_driver_need_not_have_seen_the_devices_bit(seen: int) -> None:
    """2.1.1: the device's bit stays on, whether the driver repeats it or not."""
    state = device_at(DRIVER)
    state.set_driver_features(V1)
    state.need_reset()
    state.set_status(FEATURES_OK | seen)

    assert state.status == FEATURES_OK | NEEDS_RESET


def test_the_status_reads_nonzero_until_a_reset_is_finished() -> None:
    """2.4.1, 2.4.2."""
    state = device_at(DRIVER_OK, queues=1)
    state.set_status(0)

    assert state.resetting
    assert state.status == DRIVER_OK
    assert not state.live
    state.finish_reset()
    assert state.status == 0
    assert not state.resetting


def test_a_reset_forgets_the_driver_and_its_queues() -> None:
    """2.4.1, 4.1.4.3.1."""
    state = device_at(DRIVER_OK, queues=2)
    state.begin_reset()
    state.finish_reset()

    assert state.snapshot() == device().snapshot()


def test_a_reset_keeps_the_configuration_and_its_generation() -> None:
    """2.5: a driver may still be between two reads."""
    state = device_at(DRIVER_OK)
    state.set_config(b"12345678")
    state.begin_reset()
    state.finish_reset()

    assert (state.config, state.generation) == (b"12345678", 1)


def test_a_reset_of_a_reset_device_is_over_at_once() -> None:
    """3.1.1: a driver begins with a reset."""
    state = device()
    state.set_status(0)

    assert not state.resetting
    state.set_status(ACK)


@pytest.mark.parametrize("access", ACCESSES)
def test_nothing_is_taken_while_a_reset_is_under_way(access: str) -> None:
    """2.4.2, 4.1.4.3.2: the driver waits for status 0."""
    state = device_at(DRIVER_OK)
    state.set_status(0)

    assert_refused(state, "2.4.2", lambda: ACCESSES[access](state))


def test_a_device_in_reset_needs_no_reset() -> None:
    state = device_at(DRIVER_OK)
    state.begin_reset()

    assert not state.need_reset()
    assert state.status == DRIVER_OK
