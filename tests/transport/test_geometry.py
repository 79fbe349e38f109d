"""Where the areas of a split virtqueue lie."""

from __future__ import annotations

import itertools

import pytest

from paravirt.transport._core import lib
from paravirt.transport._features import Feature
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._queues import QueueState

SIZES = [1 << power for power in range(16)]
BASE = 0x10000


@pytest.mark.parametrize("size", SIZES)
def test_a_contiguous_ring_is_one_that_a_device_takes(size: int) -> None:
    """2.7.1: aligned to 16, 2 and 4, and no area on another."""
    geometry = RingGeometry.contiguous(size, BASE)
    state = QueueState(32768, size, geometry.desc, geometry.driver, geometry.device)

    state.check(0)
    assert state.parts()[-1].stop == geometry.end


@pytest.mark.parametrize("size", SIZES)
def test_what_the_device_writes_shares_no_cache_line_with_what_it_reads(size: int) -> None:
    geometry = RingGeometry.contiguous(size, BASE)
    parts = QueueState(32768, size, geometry.desc, geometry.driver, geometry.device).parts()

    assert geometry.device % 64 == 0
    assert all(a.stop <= b.start for a, b in itertools.pairwise(parts))


def test_a_contiguous_ring_of_256_is_laid_out_as_in_the_specification() -> None:
    """2.7: 16 bytes a descriptor, then 6 + 2 * size."""
    geometry = RingGeometry.contiguous(256, BASE)

    assert (geometry.desc, geometry.driver) == (BASE, BASE + 4096)
    assert geometry.device == BASE + 4096 + 576  # 518 bytes, rounded up to a cache line
    assert geometry.end == geometry.device + 6 + 2048


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (0, 0),
        (Feature.VERSION_1 | 1, 0),
        (Feature.RING_INDIRECT_DESC, lib.PV_RING_INDIRECT),
        (Feature.RING_EVENT_IDX | Feature.VERSION_1, lib.PV_RING_EVENT_IDX),
        (
            Feature.RING_EVENT_IDX | Feature.RING_INDIRECT_DESC,
            lib.PV_RING_EVENT_IDX | lib.PV_RING_INDIRECT,
        ),
    ],
)
def test_the_core_hears_of_the_features_of_a_ring_only(features: int, expected: int) -> None:
    assert RingGeometry(size=8, desc=1, driver=2, device=3, features=features).to_c().features == (
        expected
    )


def test_the_core_gets_each_address_at_its_place() -> None:
    c = RingGeometry(size=8, desc=1 << 63, driver=2, device=3).to_c()

    assert (c.size, c.desc, c.driver, c.device) == (8, 1 << 63, 2, 3)


@pytest.mark.parametrize("size", [0, -8, 3, 65536, 1 << 40])
def test_a_size_that_cannot_be_never_reaches_the_core(size: int) -> None:
    """2.7."""
    with pytest.raises(ValueError, match="power of two"):
        RingGeometry(size=size, desc=0, driver=0, device=0).to_c()


def test_geometry_cannot_change() -> None:
    geometry = RingGeometry.contiguous(8, BASE)

    with pytest.raises(AttributeError):
        geometry.size = 16  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
