"""What a machine's C has counted and noted."""

from __future__ import annotations

from typing import Any

import msgspec

from paravirt.doorbells.kvm import BellKind

from ._kvm import lib

__all__ = ("MachineStatistics", "Note")


class MachineStatistics(msgspec.Struct, frozen=True):
    """What happened to the vCPUs of a machine so far."""

    exits: int
    """Times that a vCPU left the guest for user space."""
    kicks: int
    """Exits that rang a doorbell; one by ioeventfd or hypercall to an eventfd is not seen here."""
    stray: int
    """Kicks of no queue, and accesses to ports or device pages with nothing behind them."""
    console_lost: int
    """Bytes that the guest printed and nobody had room for."""


class Note(msgspec.Struct, frozen=True):
    """The registers that came with a notification that carries data."""

    kind: BellKind
    """VMPORT or MAP_GPA."""
    address: int
    """ECX, or the first argument of the hypercall."""
    value: int
    """EBX, or the second argument."""
    rsi: int
    rdi: int


def read_notes(core: Any) -> list[Note]:
    """Return the notes of a `struct pv_machine`, the oldest first."""
    first = max(0, core.noted - lib.PV_NOTES)
    rows = (core.notes[index % lib.PV_NOTES] for index in range(first, core.noted))
    return [Note(BellKind(r.kind), r.address, r.value, r.rsi, r.rdi) for r in rows]


def read_statistics(core: Any) -> MachineStatistics:
    """Return the counters of a `struct pv_machine`."""
    counts = core.counts
    return MachineStatistics(
        exits=counts.exits,
        kicks=counts.kicks,
        stray=counts.stray,
        console_lost=counts.console_lost,
    )
