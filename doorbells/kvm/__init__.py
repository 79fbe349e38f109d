"""Doorbells that a guest on KVM rings by an instruction."""

from __future__ import annotations

from ._boot_page import (
    BellKind as BellKind,
    BootPage as BootPage,
    GuestKick as GuestKick,
    Vendor as Vendor,
)
from ._guest_bell import (
    DoorbellRefused as DoorbellRefused,
    ExitSource as ExitSource,
    GuestBell as GuestBell,
)
