"""The names of the register block: where registers are, what they hold, why they refuse."""

from __future__ import annotations

import enum


class Register(enum.IntEnum):
    """The registers by offset; all have 32 bits."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_SIZE_MAX = 0x034
    QUEUE_SIZE = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_SEL = 0x0AC
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    CONFIG_GENERATION = 0x0FC


class Interrupt(enum.IntFlag):
    """The bits of InterruptStatus."""

    USED = 1
    CONFIG = 2


class Refusal(enum.StrEnum):
    """Why an access had no effect; a read then gives 0."""

    WIDTH = "width"
    """Not 32 bits wide and aligned, or not of a size that configuration fields have."""
    UNKNOWN = "unknown register"
    READ_ONLY = "read-only register"
    WRITE_ONLY = "write-only register"
    VALUE = "value"
    """The register does not take this value."""
    NO_QUEUE = "no such queue"
    QUEUE_READY = "queue is ready"
    """A queue was changed while it is in use."""
    QUEUE_NOT_READY = "queue is not ready"
    """A queue was kicked that is not in use."""
    ADDRESS = "address"
    """A part of a queue lies outside of memory."""
    NEGOTIATION = "negotiation"
    """Not in this state of the device, or not with these features."""
    CONFIG = "configuration"
    """Outside of the configuration space."""
