"""The bytes that a network device and its driver agree on (virtio 1.4, 5.1)."""

from __future__ import annotations

import enum
import struct
from typing import Annotated

from .._config import U8, U16, U32, ConfigSpace, Size

DEVICE_ID = 1
MAC_BYTES = 6
HEADER_BYTES = 12
"""What each packet begins with, in both directions (5.1.6)."""
LEAST_MTU = 68
"""No device shows a lower one (5.1.4.1): the least that IPv4 works with."""
MOST_PAIRS = 0x8000
"""Pairs of queues (5.1.4.1)."""
CONTROL = struct.Struct("<BB")
"""What a command on the control queue begins with: its class, and which of the class (5.1.6.5)."""
PAIRS = struct.Struct("<H")
"""How many pairs to use: the payload of `ControlClass.MQ` (5.1.6.5.6)."""


class NetFeature(enum.IntFlag):
    """The feature bits of a network device, those that our devices know (5.1.3)."""

    MTU = 1 << 3
    MAC = 1 << 5
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    MQ = 1 << 22


class LinkStatus(enum.IntFlag):
    """The field `status` (5.1.4)."""

    LINK_UP = 1
    ANNOUNCE = 2


class ControlClass(enum.IntEnum):
    """The classes of commands that our devices know (5.1.6.5)."""

    MQ = 4


PAIRS_SET = 0
"""The command of `ControlClass.MQ` that says how many pairs to use."""


class ControlAck(enum.IntEnum):
    """How a command on the control queue ended (5.1.6.5)."""

    OK = 0
    ERR = 1


class NetConfig(ConfigSpace, frozen=True):
    """The configuration space, as far as MTU needs it (5.1.4).

    A field counts only if its feature was negotiated.
    """

    mac: Annotated[bytes, Size(MAC_BYTES)] = bytes(MAC_BYTES)
    status: U16 = 0
    max_virtqueue_pairs: U16 = 0
    mtu: U16 = 0
    speed: U32 = 0xFFFFFFFF
    """In Mbit/s; all ones where it is not known."""
    duplex: U8 = 0xFF
    """1 full, 0 half, 0xff where it is not known."""
