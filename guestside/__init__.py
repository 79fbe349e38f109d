"""The driver's end: send requests to any device behind a link."""

from __future__ import annotations

from ._base import DriverQueueStatistics as DriverQueueStatistics
from ._client import DeviceNeedsReset as DeviceNeedsReset
from ._driver import Driver as Driver
from ._sync import SyncDriver as SyncDriver
