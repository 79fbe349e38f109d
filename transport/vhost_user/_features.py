"""The protocol features of vhost-user, and their bits where peers disagree about them."""

from __future__ import annotations

import enum

import msgspec

__all__ = ("PROTOCOL_FEATURES", "VHOST_F_LOG_ALL", "Dialect", "ProtocolFeature")

PROTOCOL_FEATURES = 1 << 30
"""The virtio feature bit, VHOST_USER_F_PROTOCOL_FEATURES, that says there are protocol features."""
VHOST_F_LOG_ALL = 1 << 26
"""The virtio feature bit by which a frontend asks for a log of what is written."""


class ProtocolFeature(enum.IntFlag):
    """What a frontend and a backend may agree on besides the features of virtio.

    The last three are numbered as in QEMU 11.1; what they are on the wire is for a `Dialect`.
    """

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19
    GET_VRING_BASE_INFLIGHT = 1 << 20
    GPA_ADDRESSES = 1 << 21
    SHMEM = 1 << 22

    @property
    def words(self) -> list[str]:
        """The names of the features, lowest bit first, as a person would write them."""
        return [_WORDS.get(one, _plain(one)) for one in ProtocolFeature if one in self]

    @property
    def needs(self) -> ProtocolFeature:
        """The features without which it is an error to agree on these."""
        needs = ProtocolFeature(0)
        for feature, needed in _NEEDS.items():
            if feature in self:
                needs |= needed
        return needs


_WORDS = {
    ProtocolFeature.MQ: "several queues",
    ProtocolFeature.LOG_SHMFD: "log of written pages",
    ProtocolFeature.RARP: "RARP",
    ProtocolFeature.REPLY_ACK: "acknowledgement on request",
    ProtocolFeature.MTU: "MTU",
    ProtocolFeature.BACKEND_REQ: "back channel",
    ProtocolFeature.PAGEFAULT: "page faults (postcopy)",
    ProtocolFeature.CONFIG: "configuration space",
    ProtocolFeature.BACKEND_SEND_FD: "descriptors over the back channel",
    ProtocolFeature.INFLIGHT_SHMFD: "inflight descriptors",
    ProtocolFeature.INBAND_NOTIFICATIONS: "notifications in band",
    ProtocolFeature.CONFIGURE_MEM_SLOTS: "memory slots",
    ProtocolFeature.XEN_MMAP: "Xen mappings",
    ProtocolFeature.GET_VRING_BASE_INFLIGHT: "inflight descriptors kept by a stop",
    ProtocolFeature.GPA_ADDRESSES: "rings at guest-physical addresses",
    ProtocolFeature.SHMEM: "shared memory regions",
}
_NEEDS = {
    ProtocolFeature.INBAND_NOTIFICATIONS: ProtocolFeature.REPLY_ACK | ProtocolFeature.BACKEND_REQ,
    ProtocolFeature.GET_VRING_BASE_INFLIGHT: ProtocolFeature.INFLIGHT_SHMFD,
}
_FIXED = (1 << 20) - 1


def _plain(feature: ProtocolFeature) -> str:
    return (feature.name or "").lower().replace("_", " ")


class Dialect(msgspec.Struct, frozen=True):
    """Which bits on the wire mean the features whose numbers changed while peers used them.

    SHMEM was 20, then 21, then 22; a peer that means it by 21 collides with GPA_ADDRESSES, which
    changes what SET_VRING_ADDR means. So none is spoken unless it is configured, and none is ever
    inferred from another. Raises `ValueError` for two at one bit, or at a bit that is taken.
    """

    get_vring_base_inflight: int | None = None
    """20 in QEMU 11.1 and in rust-vmm vhost 0.16."""
    gpa_addresses: int | None = None
    """21 in QEMU 11.1."""
    shmem: int | None = None
    """22 in QEMU 11.1 and crosvm, 21 in rust-vmm vhost 0.16 and Cloud Hypervisor 53."""

    def __post_init__(self) -> None:
        bits = [bit for _, bit in self._pairs()]
        if len(set(bits)) < len(bits) or any(not 20 <= bit < 64 for bit in bits):
            raise ValueError(f"bits {bits}: each needs its own, from 20 to 63")

    def to_wire(self, features: ProtocolFeature) -> int:
        """Return the bits to send. Raises `ValueError` for a feature that has none."""
        wire = int(features) & _FIXED
        left = int(features) & ~_FIXED
        for feature, bit in self._pairs():
            if feature & left:
                wire |= 1 << bit
                left &= ~int(feature)
        if left:
            raise ValueError(f"{ProtocolFeature(left)!r} has no bit in this dialect")
        return wire

    def from_wire(self, bits: int) -> ProtocolFeature:
        """Return the features that the bits mean; those without a meaning are left out."""
        found = ProtocolFeature(bits & _FIXED)
        for feature, bit in self._pairs():
            if bits >> bit & 1:
                found |= feature
        return found

    def _pairs(self) -> list[tuple[ProtocolFeature, int]]:
        named = (
            (ProtocolFeature.GET_VRING_BASE_INFLIGHT, self.get_vring_base_inflight),
            (ProtocolFeature.GPA_ADDRESSES, self.gpa_addresses),
            (ProtocolFeature.SHMEM, self.shmem),
        )
        return [(feature, bit) for feature, bit in named if bit is not None]
