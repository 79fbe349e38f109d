"""A small virtual machine on KVM."""

from __future__ import annotations

from ._bare import BareKick as BareKick, bare_kicks as bare_kicks
from ._console import Console as Console
from ._errors import (
    GuestFault as GuestFault,
    GuestStalled as GuestStalled,
    KvmUnavailable as KvmUnavailable,
    MachineError as MachineError,
    Registers as Registers,
)
from ._irqfd import Irqfd as Irqfd
from ._link import MachineLink as MachineLink
from ._machine import Machine as Machine
from ._statistics import MachineStatistics as MachineStatistics, Note as Note
from .snapshot import Snapshot as Snapshot, SnapshotError as SnapshotError
from .text import (
    ChangedPage as ChangedPage,
    TextChanged as TextChanged,
    TextReport as TextReport,
    measure as measure,
)
