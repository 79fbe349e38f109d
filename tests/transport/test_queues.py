"""What a driver may and may not make of a queue."""

from __future__ import annotations

import pytest

from paravirt.transport._queues import QueueState, ring_sizes

from .negotiation import (
    ACK,
    AVAIL,
    DESC,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    USED,
    assert_refused,
    device_at,
)


@pytest.mark.parametrize("size", [1, 2, 64, 256])
def test_a_queue_takes_the_size_the_driver_chose(size: int) -> None:
    """2.7."""
    state = device_at(FEATURES_OK)
    state.set_queue(0, size, DESC, 0x10000, 0x20000)
    state.enable_queue(0)

    assert state.queue(0) == QueueState(256, size, DESC, 0x10000, 0x20000, enabled=True)


@pytest.mark.parametrize(
    ("size", "clause"),
    [(0, "2.7"), (3, "2.7"), (-64, "2.7"), (65536, "2.7"), (512, "4.2.2.2"), (32768, "4.2.2.2")],
)
def test_a_queue_of_a_wrong_size_is_refused(size: int, clause: str) -> None:
    """2.7, 2.7.13: a power of two up to 32768, and 4.2.2.2: no more than the device has."""
    state = device_at(FEATURES_OK)

    assert_refused(state, clause, lambda: state.set_queue(0, size, DESC, 0x10000, 0x20000))


@pytest.mark.parametrize(
    ("desc", "driver", "used"),
    [(DESC + 8, AVAIL, USED), (DESC, AVAIL + 1, USED), (DESC, AVAIL, USED + 2)],
)
def test_a_misaligned_ring_is_refused(desc: int, driver: int, used: int) -> None:
    """2.7.1: 16, 2 and 4."""
    state = device_at(FEATURES_OK)

    assert_refused(state, "2.7.1", lambda: state.set_queue(0, 64, desc, driver, used))


def test_rings_aligned_as_they_must_and_side_by_side_are_taken() -> None:
    """2.7, 2.7.1: 16, 2 and 4 bytes are enough, and no room is needed between the parts."""
    state = device_at(FEATURES_OK)
    desc, driver, used = 16, 16 + 16 * 64, 16 + 16 * 64 + 6 + 2 * 64 + 2
    state.set_queue(0, 64, desc, driver, used)
    state.set_queue(1, 2, 2**64 - 32, 2**64 - 42, 2**64 - 64)

    assert [part.start for part in state.queue(0).parts()] == [desc, driver, used]
    assert [part.stop for part in state.queue(1).parts()] == [2**64, 2**64 - 32, 2**64 - 42]


@pytest.mark.parametrize(
    ("desc", "driver", "used"),
    [
        (0, 0, 0),
        (DESC, DESC + 1008, USED),
        (DESC, AVAIL, DESC - 4),
        (DESC, AVAIL, AVAIL + 132),
        (DESC, USED + 2, USED),
    ],
)
def test_rings_that_overlap_are_refused(desc: int, driver: int, used: int) -> None:
    """2.7: each part is written by one side only."""
    state = device_at(FEATURES_OK)

    assert_refused(state, "2.7", lambda: state.set_queue(0, 64, desc, driver, used))


@pytest.mark.parametrize(
    ("desc", "driver", "used"),
    [
        (2**64 - 16, AVAIL, USED),
        (DESC, 2**64 - 64, USED),
        (DESC, AVAIL, 2**64 - 64),
        (2**64, AVAIL, USED),
        (-16, AVAIL, USED),
    ],
)
def test_a_ring_beyond_the_last_address_is_refused(desc: int, driver: int, used: int) -> None:
    """2.7: each part is contiguous in guest memory, whose addresses have 64 bits."""
    state = device_at(FEATURES_OK)

    assert_refused(state, "2.7", lambda: state.set_queue(0, 64, desc, driver, used))


def test_queues_that_share_bytes_cannot_both_be_enabled() -> None:
    """2.7: each part is written by one side only."""
    state = device_at(FEATURES_OK, queues=1)
    state.set_queue(1, 64, 0x8000, 0x9000, USED + 8)

    assert_refused(state, "2.7", lambda: state.enable_queue(1))


def test_a_queue_that_is_not_enabled_keeps_no_bytes_for_itself() -> None:
    """2.7: until it is enabled, the driver may still move it."""
    state = device_at(FEATURES_OK)
    state.set_queue(1, 64, DESC, AVAIL, USED)
    state.set_queue(0, 64, DESC, AVAIL, USED)
    state.enable_queue(0)

    assert state.queue(0).enabled


def test_a_queue_that_was_not_set_up_cannot_be_enabled() -> None:
    """4.1.4.3.2."""
    state = device_at(FEATURES_OK)

    assert_refused(state, "4.1.4.3.2", lambda: state.enable_queue(0))


@pytest.mark.parametrize("status", [FEATURES_OK, DRIVER_OK])
def test_the_geometry_of_an_enabled_queue_is_frozen(status: int) -> None:
    """4.2.2.2; a queue resized while live let a guest out of its VMM (CVE-2026-5747)."""
    state = device_at(status, queues=1)

    assert_refused(state, "4.2.2.2", lambda: state.set_queue(0, 128, DESC, 0x10000, 0x20000))


def test_enabling_an_enabled_queue_changes_nothing() -> None:
    state = device_at(FEATURES_OK, queues=1)
    before = state.snapshot()
    state.enable_queue(0)

    assert state.snapshot() == before


@pytest.mark.parametrize("status", [0, ACK, DRIVER, DRIVER_OK])
def test_queues_are_set_up_between_features_ok_and_driver_ok(status: int) -> None:
    """3.1.1, step 7."""
    state = device_at(status)

    assert_refused(state, "3.1.1", lambda: state.set_queue(0, 64, DESC, AVAIL, USED))
    assert_refused(state, "3.1.1", lambda: state.enable_queue(0))


@pytest.mark.parametrize("index", [-1, 2, 65536])
def test_a_queue_that_does_not_exist_is_refused(index: int) -> None:
    """2.6."""
    state = device_at(FEATURES_OK)

    assert_refused(state, "2.6", lambda: state.queue(index))
    assert_refused(state, "2.6", lambda: state.set_queue(index, 64, DESC, AVAIL, USED))
    assert_refused(state, "2.6", lambda: state.enable_queue(index))


@pytest.mark.parametrize(
    ("size", "sizes"), [(1, (16, 8, 14)), (256, (4096, 518, 2054)), (32768, (2**19, 65542, 262150))]
)
def test_ring_sizes(size: int, sizes: tuple[int, int, int]) -> None:
    """2.7."""
    assert ring_sizes(size) == sizes
