"""Names of feature bits: the standard's for machines, plain words for people."""

from __future__ import annotations

from paravirt.transport import Feature, describe_features
from paravirt.transport.vhost_user import PROTOCOL_FEATURES, VHOST_F_LOG_ALL, ProtocolFeature
from paravirt.transport.wire.block import BlockFeature

KINDS = ("block", "none")
"""The device types whose bits have names here."""

_VHOST_NAMES = {VHOST_F_LOG_ALL: "LOG_ALL", PROTOCOL_FEATURES: "PROTOCOL_FEATURES"}
_VHOST_WORDS = {26: "log of all writes", 30: "protocol features"}
_BLOCK_WORDS = {
    1: "maximum segment size",
    2: "maximum number of segments",
    4: "geometry",
    5: "read-only",
    6: "block size",
    9: "flush",
    10: "topology",
    11: "switchable cache",
    12: "several queues",
    13: "discard",
    14: "write zeroes",
    15: "lifetime",
    16: "secure erase",
    17: "zoned",
}


def feature_names(features: int, device: str) -> list[str]:
    """Return the standard's names of the features, lowest bit first."""
    names = {int(one): one.name or "" for one in Feature}
    if device == "block":
        names |= {int(one): one.name or "" for one in BlockFeature}
    return [(names | _VHOST_NAMES).get(1 << bit, f"bit {bit}") for bit in _bits(features)]


def feature_words(features: int, device: str) -> list[str]:
    """Return the features as a person would say them."""
    return describe_features(features, _VHOST_WORDS | (_BLOCK_WORDS if device == "block" else {}))


def protocol_names(features: int) -> list[str]:
    """Return the protocol's names; from bit 20 on peers differ, so those stay numbers."""
    return [
        (ProtocolFeature(1 << bit).name or f"bit {bit}") if bit < 20 else f"bit {bit}"
        for bit in _bits(features)
    ]


def protocol_words(features: int) -> list[str]:
    """Return the protocol features as a person would say them."""
    known = features & (1 << 20) - 1
    return ProtocolFeature(known).words + protocol_names(features & ~known)


def _bits(features: int) -> list[int]:
    return [bit for bit in range(features.bit_length()) if features >> bit & 1]
