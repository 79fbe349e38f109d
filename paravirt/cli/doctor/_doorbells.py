"""Which doorbells can be made here."""

from __future__ import annotations

from paravirt.doorbells import kvm, probe

from ._check import Check


def doorbell_checks() -> list[Check]:
    """Ask the doorbells themselves."""
    return [Check(f"doorbell-{found.name}", found.available, found.reason) for found in probe()]


def guest_doorbell_checks() -> list[Check]:
    """Let a guest ring each of its own, in a throw-away virtual machine of one page."""
    return [Check(f"doorbell-{found.name}", found.available, found.reason) for found in kvm.probe()]
