"""Doorbells that a guest on KVM rings by an instruction."""

from __future__ import annotations

from ._boot_page import (
    BellKind as BellKind,
    BootPage as BootPage,
    GuestKick as GuestKick,
    Vendor as Vendor,
)
from ._exits import MmioExit as MmioExit, PioExit as PioExit, Vmport as Vmport
from ._guest_bell import (
    DoorbellRefused as DoorbellRefused,
    ExitSource as ExitSource,
    GuestBell as GuestBell,
)
from ._hypercall import (
    HypercallExit as HypercallExit,
    HyperV as HyperV,
    XenEvtchn as XenEvtchn,
)
from ._ioeventfd import (
    MmioDatamatch as MmioDatamatch,
    MmioIoeventfd as MmioIoeventfd,
    MmioWildcard as MmioWildcard,
    PioDatamatch as PioDatamatch,
    PioIoeventfd as PioIoeventfd,
    PioWildcard as PioWildcard,
)
from ._kinds import GUEST_KINDS as GUEST_KINDS, default_kind as default_kind
from ._probe import probe as probe
from .trial import API_VERSION as API_VERSION, why_closed as why_closed
