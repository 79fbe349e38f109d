"""Which doorbells can be made here."""

from __future__ import annotations

from paravirt.doorbells import probe

from ._check import Check


def doorbell_checks() -> list[Check]:
    """Ask the doorbells themselves."""
    return [Check(f"doorbell-{found.name}", found.available, found.reason) for found in probe()]
