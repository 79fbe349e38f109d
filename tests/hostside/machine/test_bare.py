"""The bare loop that doorbells are held against."""

from __future__ import annotations

import pytest

from paravirt.hostside.machine import BareKick, bare_kicks
from paravirt.hostside.machine._kvm import lib


@pytest.mark.kvm
@pytest.mark.parametrize("kind", BareKick, ids=lambda kind: kind.name)
def test_each_kick_has_its_cycles(kind: BareKick) -> None:
    """Memory is filled with 0x01010101 before: a sample that nobody took would stand out."""
    cycles = bare_kicks(kind, 100)

    assert len(cycles) == 100
    assert 0 not in cycles
    assert 0x01010101 not in cycles


@pytest.mark.kvm
@pytest.mark.parametrize("count", [-1, 0, lib.PV_BARE_MOST + 1])
def test_count_that_has_no_room_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="kicks"):
        bare_kicks(BareKick.PIO, count)


@pytest.mark.parametrize("kind", BareKick, ids=lambda kind: kind.name)
def test_kinds_are_those_of_the_core(kind: BareKick) -> None:
    assert getattr(lib, f"PV_BARE_{kind.name}") == kind
