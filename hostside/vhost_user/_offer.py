"""What a device offers to a frontend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport import (
    TRANSPORT_FEATURES,
    DeviceState,
    Feature,
    PeerError,
    describe_features,
)
from paravirt.transport.vhost_user import PROTOCOL_FEATURES, ProtocolFeature

if TYPE_CHECKING:
    from paravirt.transport.link import DeviceModel

__all__ = ("Offer",)

MAX_QUEUES = 256
"""A message about a descriptor names its queue in 8 bits."""
_NET = 1
"""The one device type whose queues are counted in pairs."""


class Offer:
    """The features of a device, its protocol features, and how many queues it has.

    Raises `ValueError` for a device that virtio does not allow.
    """

    def __init__(self, device: DeviceModel) -> None:
        features = int(TRANSPORT_FEATURES | device.features)
        config = device.config.to_bytes()
        DeviceState(device.device_id, features, device.queue_sizes, config)
        self.queues = min(len(device.queue_sizes), MAX_QUEUES)
        self.features = features | PROTOCOL_FEATURES
        self.protocol = (
            ProtocolFeature.MQ
            | ProtocolFeature.REPLY_ACK
            | ProtocolFeature.INFLIGHT_SHMFD
            | ProtocolFeature.RESET_DEVICE
            | ProtocolFeature.CONFIGURE_MEM_SLOTS
            | ProtocolFeature.STATUS
        )
        if config:
            self.protocol |= ProtocolFeature.CONFIG | ProtocolFeature.BACKEND_REQ
        self._pairs = device.device_id == _NET

    @property
    def queue_number(self) -> int:
        """What GET_QUEUE_NUM answers: for a network device, pairs."""
        return self.queues // 2 if self._pairs else self.queues

    def check_features(self, features: int) -> None:
        """Raise `PeerError` for features that were not offered (virtio 1.4, 2.2.1)."""
        if extra := features & ~self.features:
            names = ", ".join(describe_features(extra))
            raise PeerError(f"accepted but not offered: {names}", clause="2.2.1")

    def check_protocol(self, bits: int) -> ProtocolFeature:
        """Return agreed protocol features. Raises `PeerError` for any that were not offered."""
        if extra := bits & ~int(self.protocol):
            raise PeerError(f"protocol features {extra:#x} were accepted but not offered")
        return ProtocolFeature(bits)

    @staticmethod
    def check_usable(features: int) -> None:
        """Raise `PeerError` if queues cannot run with these features (6.2)."""
        if not features & Feature.VERSION_1:
            raise PeerError("a legacy driver: VERSION_1 was not accepted", clause="6.2")
