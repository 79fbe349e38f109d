"""The kinds that a guest can ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._exits import MmioExit, PioExit, Vmport
from ._hypercall import HypercallExit, HyperV, XenEvtchn
from ._ioeventfd import (
    MmioDatamatch,
    MmioIoeventfd,
    MmioWildcard,
    PioDatamatch,
    PioIoeventfd,
    PioWildcard,
)

if TYPE_CHECKING:
    from ._guest_bell import GuestBell

__all__ = ("GUEST_KINDS",)

GUEST_KINDS: Final[tuple[type[GuestBell], ...]] = (
    *(PioIoeventfd, PioWildcard, PioDatamatch, PioExit),
    *(MmioIoeventfd, MmioWildcard, MmioDatamatch, MmioExit),
    *(Vmport, HyperV, XenEvtchn, HypercallExit),
)
"""For test fixtures and the command line; in the order in which `probe` answers."""
