"""How one side wakes the other; nothing here knows a ring or a device."""

from __future__ import annotations

from ._base import (
    Capability as Capability,
    Doorbell as Doorbell,
    DoorbellMaker as DoorbellMaker,
    DoorbellStatistics as DoorbellStatistics,
    Watched as Watched,
)
from ._direct import Direct as Direct
from ._eventfd import EventFd as EventFd
from ._kinds import KINDS as KINDS, probe as probe
from ._polling import Adaptive as Adaptive, Polling as Polling
from ._several import wait_for_any as wait_for_any
from ._waiting import (
    wait_for_work as wait_for_work,
    wait_for_work_blocking as wait_for_work_blocking,
)
from ._window import SpinWindow as SpinWindow
