"""Kicks of a virtual machine that has nothing of ours: what a doorbell costs at least."""

from __future__ import annotations

import enum
import os

from ._host import open_kvm
from ._kvm import ffi, lib

__all__ = ()  # the menu has its names


class BareKick(enum.IntEnum):
    """What the guest does; `enum pv_bare` in core/x86_64/bare.h."""

    PIO = 0
    """OUT of two bytes to a port with an eventfd."""
    PIO_EXIT = 1
    """The same without one: user space writes the eventfd."""
    MMIO = 2
    """A store of four bytes to an address with an eventfd."""
    MMIO_EXIT = 3
    """The same without one."""


def bare_kicks(kind: BareKick, count: int) -> list[int]:
    """Kick `count` times from ring 3 of a throw-away VM, all in C; returns the cycles of each.

    The interpreter lock is released meanwhile, and nobody waits on the eventfd. Raises ValueError
    for a count that its memory has no room for, KvmUnavailable where it cannot run, OSError.
    """
    kvm = open_kvm()
    try:
        if not 0 < count <= lib.PV_BARE_MOST:
            raise ValueError(f"{count} kicks: a bare loop makes 1 to {lib.PV_BARE_MOST}")
        cycles = ffi.new("uint32_t[]", count)
        rc = lib.pv_bare_kicks(kvm, int(kind), cycles, count)
    finally:
        os.close(kvm)
    if rc:
        raise OSError(-rc, f"a bare loop of kicks: {os.strerror(-rc)}")
    return list(cycles)
