"""The bytes both sides agree on, and every way of connecting two sides."""

from __future__ import annotations

from ._config import (
    U8 as U8,
    U16 as U16,
    U32 as U32,
    U64 as U64,
    ConfigSpace as ConfigSpace,
    Size as Size,
)
from ._device_ring import DeviceRing as DeviceRing
from ._dirty_log import DirtyLog as DirtyLog
from ._driver_ring import DriverRing as DriverRing
from ._errors import (
    AddressError as AddressError,
    Cause as Cause,
    MemoryGone as MemoryGone,
    NegotiationError as NegotiationError,
    PeerError as PeerError,
    RingBroken as RingBroken,
)
from ._faults import Faults as Faults
from ._features import (
    TRANSPORT_FEATURES as TRANSPORT_FEATURES,
    Feature as Feature,
    describe_features as describe_features,
)
from ._geometry import RingGeometry as RingGeometry
from ._loopback import Loopback as Loopback, loopback as loopback
from ._memory import Memory as Memory, Slice as Slice
from ._region import Region as Region
from ._ring_statistics import DeviceRingStatistics as DeviceRingStatistics
from ._state import DeviceState as DeviceState, Status as Status
from ._swap import SwappableKick as SwappableKick, SwapRefused as SwapRefused
