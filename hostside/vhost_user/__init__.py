"""Serve a device over vhost-user, to any virtual machine monitor that speaks it."""

from __future__ import annotations

from ._network import NetworkDevice as NetworkDevice
from ._offer import Offer as Offer
from ._serve import serve_vhost_user as serve_vhost_user
from ._terms import Terms as Terms
