"""What a backend offers besides what its device asks for, and by which bits."""

from __future__ import annotations

import msgspec

from paravirt.transport.vhost_user import Dialect, ProtocolFeature

__all__ = ("Terms",)

EXTRA = (
    ProtocolFeature.BACKEND_SEND_FD
    | ProtocolFeature.INBAND_NOTIFICATIONS
    | ProtocolFeature.GET_VRING_BASE_INFLIGHT
    | ProtocolFeature.GPA_ADDRESSES
    | ProtocolFeature.SHMEM
)
"""Understood, and offered only on demand: QEMU 7.2 agrees on every bit that it is offered, and then
does not keep to those that it does not know."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Protocol features to offer on top of a device's own, some to withhold, and their bits.

    Raises `ValueError` for a feature that no backend here has, or that `dialect` has no bit for.
    """

    also: ProtocolFeature = ProtocolFeature(0)
    """Offered too, with what it needs: BACKEND_SEND_FD, INBAND_NOTIFICATIONS, and with a bit in
    `dialect` GET_VRING_BASE_INFLIGHT, GPA_ADDRESSES or SHMEM."""
    never: ProtocolFeature = ProtocolFeature(0)
    """Not offered, even if the device could."""
    dialect: Dialect = Dialect()
    """The bits of the features whose numbers changed while peers used them."""

    def __post_init__(self) -> None:
        if unknown := self.also & ~EXTRA:
            raise ValueError(f"no backend here has {', '.join(unknown.words)}")
        self.dialect.to_wire(self.also)

    def apply(self, protocol: ProtocolFeature) -> ProtocolFeature:
        """Return what to offer of a device that asks for these."""
        protocol |= self.also | self.also.needs
        if ProtocolFeature.BACKEND_SEND_FD in self.also:
            protocol |= ProtocolFeature.BACKEND_REQ
        return protocol & ~self.never
