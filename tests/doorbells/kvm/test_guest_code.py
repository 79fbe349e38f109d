"""The guest's own code, `guest/doorbell.h`, against each doorbell on a real machine."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from paravirt.doorbells.kvm import (
    GUEST_KINDS,
    GuestBell,
    MmioExit,
    MmioIoeventfd,
    PioExit,
    PioIoeventfd,
    Vmport,
)
from paravirt.hostside.machine import Machine
from tests.tools import need_kvm

from .ringing import RingingGuest, build, check_contract, check_count

if TYPE_CHECKING:
    from pathlib import Path

BY_WRITE = [kind for kind in GUEST_KINDS if not kind.name.startswith("hypercall")]
BY_EXIT = (PioExit, MmioExit, Vmport)
pytestmark = pytest.mark.kvm
each = pytest.mark.parametrize("kind", BY_WRITE, ids=lambda kind: kind.name)
MANY = 100


@pytest.fixture(autouse=True)
def kvm() -> None:
    need_kvm()


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("ringing"))


@each
async def test_rung_by_the_guests_own_code_it_keeps_the_contract(
    kind: type[GuestBell], elf: Path
) -> None:
    """In ring 3, where this code runs at the CPU's own speed whatever the host."""
    await check_contract(kind, elf, ring=3)


@each
@pytest.mark.parametrize("ring", [0, 3])
async def test_each_of_many_kicks_is_heard(kind: type[GuestBell], ring: int, elf: Path) -> None:
    await check_count(kind, elf, ring=ring, count=MANY, leaves=kind in BY_EXIT)


async def test_the_guest_tells_which_bell_it_rang_last(elf: Path) -> None:
    """By `taken` the host knows that no kick by the bell before is on its way."""
    async with Machine() as machine:
        guest = RingingGuest(machine, elf)
        with closing(PioIoeventfd()) as old, closing(MmioIoeventfd()) as new:
            first = guest.attach(old)
            guest.ring()
            assert machine.boot.taken(0) == first
            second = guest.attach(new)
            assert machine.boot.taken(0) == first
            guest.ring()

            assert machine.boot.taken(0) == second
            assert [os.eventfd_read(bell.fileno()) for bell in (old, new)] == [1, 1]
