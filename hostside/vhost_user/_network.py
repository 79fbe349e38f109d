"""What a frontend may ask of a network device only."""

from __future__ import annotations

import sys
from typing import Protocol, runtime_checkable

from paravirt.transport.wire.net import DEVICE_ID, MAC_BYTES

__all__ = ("NetworkDevice",)

NETWORK = DEVICE_ID


@runtime_checkable
class NetworkDevice(Protocol):
    """A device of type 1 that has both is offered with RARP and MTU."""

    def announce(self, mac: bytes) -> None:
        """Tell the network that this address is here now (SEND_RARP): its guest has migrated."""
        ...

    def set_host_mtu(self, mtu: int) -> None:
        """Take the MTU of the host's side (NET_SET_MTU), or raise `NegotiationError`."""
        ...


def rarp_address(value: int) -> bytes:
    """Return the address in a SEND_RARP: the payload's first bytes, as the frontend wrote them."""
    return value.to_bytes(8, sys.byteorder)[:MAC_BYTES]
