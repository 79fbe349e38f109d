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
from paravirt.transport.vhost_user import PROTOCOL_FEATURES, VHOST_F_LOG_ALL, ProtocolFeature

from ._network import NETWORK, NetworkDevice
from ._terms import Terms

if TYPE_CHECKING:
    from paravirt.transport.link import DeviceModel

__all__ = ("Offer",)

MAX_QUEUES = 256
"""A message about a descriptor names its queue in 8 bits."""
_PLAIN = Terms()


class Offer:
    """The features of a device, its protocol features, and how many queues it has.

    Raises `ValueError` for a device that virtio does not allow.
    """

    def __init__(self, device: DeviceModel, terms: Terms = _PLAIN) -> None:
        features = int(TRANSPORT_FEATURES | device.features)
        config = device.config.to_bytes()
        DeviceState(device.device_id, features, device.queue_sizes, config)
        self.queues = min(len(device.queue_sizes), MAX_QUEUES)
        self.features = features | PROTOCOL_FEATURES | VHOST_F_LOG_ALL
        self.network = self._network(device)
        """The device, if it is a network device that RARP and MTU are for."""
        protocol = (
            ProtocolFeature.MQ
            | ProtocolFeature.LOG_SHMFD
            | ProtocolFeature.REPLY_ACK
            | ProtocolFeature.INFLIGHT_SHMFD
            | ProtocolFeature.RESET_DEVICE
            | ProtocolFeature.CONFIGURE_MEM_SLOTS
            | ProtocolFeature.STATUS
            | ProtocolFeature.DEVICE_STATE
        )
        if config:
            protocol |= ProtocolFeature.CONFIG | ProtocolFeature.BACKEND_REQ
        if self.network is not None:
            protocol |= ProtocolFeature.RARP | ProtocolFeature.MTU
        self.protocol = terms.apply(protocol)
        self.wire_protocol = terms.dialect.to_wire(self.protocol)
        """The bits to tell a frontend."""
        self._dialect = terms.dialect
        self._pairs = device.device_id == NETWORK  # the one type whose queues are counted in pairs

    @staticmethod
    def _network(device: DeviceModel) -> NetworkDevice | None:
        if device.device_id == NETWORK and isinstance(device, NetworkDevice):
            return device
        return None

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
        if extra := bits & ~self.wire_protocol:
            raise PeerError(f"protocol features {extra:#x} were accepted but not offered")
        agreed = self._dialect.from_wire(bits)
        if lacking := agreed.needs & ~agreed:
            text = ", ".join(lacking.words)
            raise PeerError(f"protocol features were accepted without what they need: {text}")
        return agreed

    @staticmethod
    def check_usable(features: int) -> None:
        """Raise `PeerError` if queues cannot run with these features (6.2)."""
        if not features & Feature.VERSION_1:
            raise PeerError("a legacy driver: VERSION_1 was not accepted", clause="6.2")
