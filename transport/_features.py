"""Feature bits of the queue and of the negotiation itself (virtio 1.4, chapter 6), and their rules.

A set of features is an `int`, bit n for feature n. Devices add their own bits (0 to 23, 42 and 50
upwards); this module knows those only by what it is told.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ("TRANSPORT_FEATURES", "Feature", "describe_features")


class Feature(enum.IntFlag):
    """The device-independent features by bit."""

    NOTIFY_ON_EMPTY = 1 << 24
    ANY_LAYOUT = 1 << 27
    RING_INDIRECT_DESC = 1 << 28
    RING_EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    ORDER_PLATFORM = 1 << 36
    SR_IOV = 1 << 37
    NOTIFICATION_DATA = 1 << 38
    NOTIF_CONFIG_DATA = 1 << 39
    RING_RESET = 1 << 40
    ADMIN_VQ = 1 << 41
    SUSPEND = 1 << 43

    def __invert__(self) -> Self:
        """Return all other features, devices' own included.

        `IntFlag` would stop at its highest member, so `features & ~Feature.RING_PACKED` would lose
        bits 44 and up, and a check with such a mask would not see them.
        """
        return type(self)(~int(self) & ((1 << 128) - 1))


TRANSPORT_FEATURES = Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX | Feature.VERSION_1
"""What this transport implements, and so offers for every device."""

_WORDS: dict[int, str] = {
    Feature.NOTIFY_ON_EMPTY: "notify on empty",
    Feature.ANY_LAYOUT: "any layout",
    Feature.RING_INDIRECT_DESC: "indirect descriptors",
    Feature.RING_EVENT_IDX: "event index",
    Feature.VERSION_1: "version 1",
    Feature.ACCESS_PLATFORM: "platform memory access",
    Feature.RING_PACKED: "packed ring",
    Feature.IN_ORDER: "use in order",
    Feature.ORDER_PLATFORM: "platform memory order",
    Feature.SR_IOV: "SR-IOV",
    Feature.NOTIFICATION_DATA: "notification data",
    Feature.NOTIF_CONFIG_DATA: "notification config data",
    Feature.RING_RESET: "queue reset",
    Feature.ADMIN_VQ: "administration queue",
    Feature.SUSPEND: "suspend",
}


def _bits(first: int, last: int) -> int:
    return (1 << last + 1) - (1 << first)


# 2.2 gives bits 24-40 and 43 to the queue and the negotiation, and keeps 44-49 for later. Bit 41 is
# in its range for device types, but chapter 6 has ADMIN_VQ there.
_NOT_FOR_DEVICES = _bits(24, 41) | _bits(43, 49)


def unsupported_features(features: int) -> int:
    """Return those of the features that no device may offer, as this transport lacks them (2.2.2).

    Which of its own bits a device supports is for the device to know.
    """
    return int(features & _NOT_FOR_DEVICES & ~TRANSPORT_FEATURES)


class Dependency(NamedTuple):
    """One line of a device type's table: `feature` needs at least one of `any_of` (2.2.1, 2.2.2).

    Both are masks. Where a feature needs several others, each has its own line. The features of
    chapter 6 need nothing, so there is no table of theirs.
    """

    feature: int
    any_of: int


def missing_dependencies(features: int, dependencies: Iterable[Dependency]) -> list[Dependency]:
    """Return the lines of the table that the features do not satisfy."""
    return [line for line in dependencies if features & line.feature and not features & line.any_of]


def describe_features(features: int, device_bits: Mapping[int, str] | None = None) -> list[str]:
    """Return the features in words, lowest bit first; `device_bits` names the device's by number.

    A bit without a name is "bit 42".
    """
    names = device_bits or {}
    bits = [bit for bit in range(features.bit_length()) if features >> bit & 1]
    return [_WORDS.get(1 << bit) or names.get(bit) or f"bit {bit}" for bit in bits]
