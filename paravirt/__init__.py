"""Paravirtual devices: virtio rings, doorbells, drivers and an asynchronous device server."""

from __future__ import annotations

__version__ = "0.1.0"
