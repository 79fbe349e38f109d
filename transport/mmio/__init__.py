"""The register block of virtio over MMIO (virtio 1.4, 4.2.2) as a pure function.

`access` takes the state and one access of the driver, and returns the next state, what a read gives
and what the device's side has to do. It does no I/O and knows no clock, no thread and no machine,
so whoever can trap a guest's loads and stores has a virtio transport. What the driver may not do
changes nothing and is named in the answer.
"""

from __future__ import annotations

from ._access import (
    Access as Access,
    Answer as Answer,
    ConfigWritten as ConfigWritten,
    Effect as Effect,
    Kicked as Kicked,
    QueueStopped as QueueStopped,
    ResetBegun as ResetBegun,
    Started as Started,
)
from ._block import CONFIG as CONFIG, access as access
from ._registers import Interrupt as Interrupt, Refusal as Refusal, Register as Register
from ._state import (
    MmioSnapshot as MmioSnapshot,
    MmioState as MmioState,
    QueueRegisters as QueueRegisters,
    Registers as Registers,
)
