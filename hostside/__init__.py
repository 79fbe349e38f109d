"""The device's end: a device class, its requests, and the server."""

from __future__ import annotations

from ._device import Device as Device
from ._metrics import QueueStatistics as QueueStatistics, ServerStatistics as ServerStatistics
from ._queue import DeviceQueue as DeviceQueue
from ._request import Request as Request, RequestError as RequestError
from ._server import serve as serve
from .devices.block import Block as Block, ImageError as ImageError
from .devices.net import NullNet as NullNet
