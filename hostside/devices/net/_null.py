"""The network card without a network: what is sent is returned unread, and nothing is received."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paravirt.transport import NegotiationError
from paravirt.transport.wire.net import (
    CONTROL,
    DEVICE_ID,
    LEAST_MTU,
    MAC_BYTES,
    MOST_PAIRS,
    PAIRS,
    PAIRS_SET,
    ControlAck,
    ControlClass,
    LinkStatus,
    NetConfig,
    NetFeature,
)

from ..._device import Device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._request import Request

__all__ = ("NullNet",)

MAC = bytes.fromhex("525400000001")
"""A locally administered address, from the range that QEMU takes."""
CONTROL_SIZE = 64
"""Descriptors of the control queue, whose driver waits for each command."""


class NullNet(Device):
    """A network card (virtio 1.4, 5.1) that gives back every packet at once, and receives none.

    It is the least a driver's transmit path can be measured against, and a start for cards that do
    more. Buffers for receiving stay in their ring. With several pairs of queues there is a control
    queue behind them, on which the driver says how many it uses.
    """

    device_id = DEVICE_ID

    def __init__(
        self, *, pairs: int = 1, queue_size: int = 256, mac: bytes = MAC, mtu: int | None = None
    ) -> None:
        """Make a card.

        Raises `ValueError` for a number of pairs, an address or an MTU that no card can have.
        """
        if not 1 <= pairs <= MOST_PAIRS:
            raise ValueError(f"{pairs} pairs of queues: a network card has 1 to {MOST_PAIRS}")
        if len(mac) != MAC_BYTES or mac[0] & 1:
            raise ValueError(f"{mac.hex(':')} is no address of one network card")
        if mtu is not None:
            check_mtu(mtu)
        several = pairs > 1
        self.queue_sizes = (queue_size,) * (2 * pairs) + (CONTROL_SIZE,) * several
        self.features = int(NetFeature.MAC | NetFeature.STATUS)
        if several:
            self.features |= NetFeature.MQ | NetFeature.CTRL_VQ  # 5.1.3.1: MQ needs the other
        if mtu is not None:
            self.features |= NetFeature.MTU
        self._config = NetConfig(mac, LinkStatus.LINK_UP, pairs if several else 0, mtu or 0)
        self._pairs = pairs
        self.used_pairs = 1
        """Pairs of queues that the driver said it uses (5.1.6.5.6)."""
        self.announced: bytes | None = None
        """The address that a frontend last asked to announce after a migration."""
        self.host_mtu: int | None = None
        """The MTU that a frontend last set for the host's side."""

    @property
    def control_queue(self) -> int | None:
        """The control queue's index behind the pairs there can be, None without one (5.1.2)."""
        if not self.driver_features & NetFeature.CTRL_VQ:
            return None
        return 2 * self._pairs if self.driver_features & NetFeature.MQ else 2

    @property
    def taken_queues(self) -> Sequence[int]:  # type: ignore[override]
        """The receive queues: what is posted there is left there."""
        return [queue for queue in range(0, 2 * self._pairs, 2) if queue != self.control_queue]

    def handle_batch(self, requests: Sequence[Request]) -> None:
        """Give packets back, and answer commands."""
        if requests[0].queue == self.control_queue:
            for request in requests:
                request.reply(bytes([self._command(request.read(CONTROL.size + PAIRS.size))]))
        else:
            for request in requests:
                request.reply()

    def announce(self, mac: bytes) -> None:
        """Note an address that came here by migration (SEND_RARP): nobody is there to tell."""
        self.announced = mac

    def set_host_mtu(self, mtu: int) -> None:
        """Take the MTU of the host's side (NET_SET_MTU); raises `NegotiationError` for none."""
        try:
            check_mtu(mtu)
        except ValueError as error:
            raise NegotiationError(str(error), clause="5.1.4.1") from None
        self.host_mtu = mtu

    def _command(self, command: bytes) -> ControlAck:
        if command[: CONTROL.size] != CONTROL.pack(ControlClass.MQ, PAIRS_SET):
            return ControlAck.ERR
        (pairs,) = PAIRS.unpack(command[CONTROL.size :].ljust(PAIRS.size, b"\0"))
        if not 1 <= pairs <= self._pairs:
            return ControlAck.ERR
        self.used_pairs = pairs
        return ControlAck.OK


def check_mtu(mtu: int) -> None:
    """Raise `ValueError` for an MTU that no card can have (5.1.4.1)."""
    if not LEAST_MTU <= mtu <= 0xFFFF:
        raise ValueError(f"an MTU of {mtu}: need {LEAST_MTU} to 65535")
