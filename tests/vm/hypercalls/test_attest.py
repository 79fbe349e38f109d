"""`paravirt attest` where every doorbell can be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.cli.attest._cases import Case, cases
from paravirt.cli.attest._rows import attest_all
from paravirt.cli.attest._show import summary
from paravirt.cli.doorbells._rows import KINDS
from paravirt.guestside import payload
from paravirt.hostside.machine import measure

from .nested import SAID

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.hypercall


def test_only_the_other_vendors_instruction_changes_text_and_only_where_kvm_may(
    record_property: Callable[[str, object], None],
) -> None:
    """KVM_X86_QUIRK_FIX_HYPERCALL_INSN; the CPU is AMD's, so VMCALL (c1) becomes VMMCALL (d9)."""
    rows = attest_all(cases(KINDS)).rows
    for line in summary(rows):
        record_property(SAID, line)
    own = [row for row in rows if row.case == Case.OWN]
    other, kept, readonly = rows[len(own) :]

    assert [row.doorbell for row in own] == [kind.name for kind in KINDS]
    for row in (*own, kept, readonly):
        assert row.text is not None, row
        assert row.text.found == row.text.measured == measure(payload.path())
        assert row.text_changed is False
    assert other.text is not None
    assert other.text_changed
    assert {(page.before[:2], page.after[:2]) for page in other.text.changed} == {("c1", "d9")}
    for row in (*own, other, kept):
        assert ("answered, 0 kicks" in row.outcome) == (row.doorbell == "polling"), row
    assert "#UD, then the guest took vmmcall" in kept.outcome
    assert "KVM was to rewrite the other vendor's hypercall instruction" in readonly.outcome
