"""What is tried: each doorbell as it should be rung, and one hypercall as it should not."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from paravirt.doorbells.kvm import probe

from ..doorbells._guest import HYPERCALLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.doorbells import Doorbell


class Case(enum.StrEnum):
    """How the guest rings."""

    OWN = "own"
    """As it should; by a hypercall with the instruction of this CPU's vendor."""
    OTHER = "other-vendor"
    """With the other vendor's, which KVM rewrites (KVM_X86_QUIRK_FIX_HYPERCALL_INSN)."""
    KEPT = "other-vendor-kept"
    """The same, and KVM is told not to: an invalid opcode."""
    READONLY = "other-vendor-readonly"
    """The same with KVM as it is, but the text is read-only."""


class Trial(NamedTuple):
    """One boot of the guest."""

    kind: type[Doorbell]
    case: Case


def cases(kinds: Sequence[type[Doorbell]]) -> list[Trial]:
    """Return what to try of these doorbells.

    The other vendor's instruction is tried with the first hypercall that the host has.
    """
    trials = [Trial(kind, Case.OWN) for kind in kinds]
    hypercalls = [kind for kind in HYPERCALLS if kind in kinds]
    if hypercalls:
        here = {row.name for row in probe() if row.available}
        # Where there is none, KVM's own says why: the others may just not be compiled in.
        kind = next((kind for kind in hypercalls if kind.name in here), hypercalls[-1])
        trials += [Trial(kind, case) for case in Case if case is not Case.OWN]
    return trials
