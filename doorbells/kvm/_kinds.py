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

__all__ = ("GUEST_KINDS", "default_kind")

GUEST_KINDS: Final[tuple[type[GuestBell], ...]] = (
    *(PioIoeventfd, PioWildcard, PioDatamatch, PioExit),
    *(MmioIoeventfd, MmioWildcard, MmioDatamatch, MmioExit),
    *(Vmport, HyperV, XenEvtchn, HypercallExit),
)
"""For test fixtures and the command line; in the order in which `probe` answers."""


def default_kind(architecture: str) -> type[GuestBell]:
    """Return the kind for who chose none: a port where the CPU has them, a store elsewhere.

    `architecture` is what `platform.machine()` calls the guest's CPU. KVM serves both without
    leaving the kernel; of the two, a port is cheaper to decode.
    """
    return PioIoeventfd if architecture == "x86_64" else MmioIoeventfd
