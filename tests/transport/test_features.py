"""The device-independent feature bits, their words and their dependencies."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from paravirt.transport._features import (
    TRANSPORT_FEATURES,
    Dependency,
    Feature,
    describe_features,
    missing_dependencies,
    unsupported_features,
)

CSUM, TSO4, TSO6, ECN = 1 << 1, 1 << 7, 1 << 8, 1 << 9
OF_A_NETWORK_CARD = (
    Dependency(TSO4, CSUM),
    Dependency(TSO6, CSUM),
    Dependency(ECN, TSO4 | TSO6),
)


@pytest.mark.parametrize(
    ("feature", "bit"),
    [
        (Feature.NOTIFY_ON_EMPTY, 24),
        (Feature.ANY_LAYOUT, 27),
        (Feature.RING_INDIRECT_DESC, 28),
        (Feature.RING_EVENT_IDX, 29),
        (Feature.VERSION_1, 32),
        (Feature.ACCESS_PLATFORM, 33),
        (Feature.RING_PACKED, 34),
        (Feature.IN_ORDER, 35),
        (Feature.ORDER_PLATFORM, 36),
        (Feature.SR_IOV, 37),
        (Feature.NOTIFICATION_DATA, 38),
        (Feature.NOTIF_CONFIG_DATA, 39),
        (Feature.RING_RESET, 40),
        (Feature.ADMIN_VQ, 41),
        (Feature.SUSPEND, 43),
    ],
)
def test_bits_are_those_of_chapter_6(feature: Feature, bit: int) -> None:
    """Chapter 6, and 6.3 for the two legacy ones."""
    assert feature == 1 << bit


def test_every_feature_has_words() -> None:
    words = describe_features(sum(Feature))

    assert len(words) == len(Feature)
    assert not any(word.startswith("bit") for word in words)


def test_features_are_described_lowest_bit_first() -> None:
    features = Feature.RING_EVENT_IDX | 1 << 5 | 1 << 50 | Feature.VERSION_1

    assert describe_features(features, {5: "read-only"}) == [
        "read-only",
        "event index",
        "version 1",
        "bit 50",
    ]


def test_no_features_are_no_words() -> None:
    assert describe_features(0) == []


@given(st.integers(0, (1 << 128) - 1))
def test_each_bit_is_described_once(features: int) -> None:
    assert len(describe_features(features)) == features.bit_count()


@given(st.integers(0, (1 << 128) - 1))
def test_taking_one_feature_away_leaves_all_others(features: int) -> None:
    """A plain `IntFlag` would lose the bits above its highest member."""
    assert features & ~Feature.VERSION_1 == features & ~(1 << 32)


@pytest.mark.parametrize(
    ("features", "missing"),
    [
        (0, []),
        (CSUM | TSO4 | ECN, []),
        (CSUM | TSO6 | ECN, []),
        (TSO4, [(TSO4, CSUM)]),
        (CSUM | ECN, [(ECN, TSO4 | TSO6)]),
        (TSO6 | ECN, [(TSO6, CSUM)]),
    ],
)
def test_missing_dependencies(features: int, missing: list[tuple[int, int]]) -> None:
    """2.2.1 and 2.2.2: no feature without what it requires; one of several may do."""
    assert missing_dependencies(features, OF_A_NETWORK_CARD) == missing


def test_what_the_transport_offers_is_supported() -> None:
    """2.2.2 and 6.2: only what works is offered, VERSION_1 always is."""
    assert unsupported_features(TRANSPORT_FEATURES) == 0
    assert Feature.VERSION_1 in TRANSPORT_FEATURES


@pytest.mark.parametrize("bit", [0, 23, 42, 50, 63, 127])
def test_a_device_may_use_its_own_bits(bit: int) -> None:
    """2.2: 0 to 23, 42 and 50 to 127 belong to the device types."""
    assert unsupported_features(1 << bit) == 0


@pytest.mark.parametrize("bit", [24, 27, 30, 34, 35, 40, 41, 43, 44, 49])
def test_a_device_may_not_offer_what_the_transport_lacks(bit: int) -> None:
    """2.2 and 2.2.2: neither queue features that do not work here, nor reserved bits."""
    assert unsupported_features(1 << bit) == 1 << bit
