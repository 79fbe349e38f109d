"""The machine and the payload, as they are, with hypercalls as doorbells."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Final

import pytest
import trio

from paravirt.doorbells.kvm import (
    GuestBell,
    HypercallExit,
    HyperV,
    PioIoeventfd,
    Vendor,
    XenEvtchn,
)
from paravirt.guestside import payload
from paravirt.hostside.machine import GuestFault, Machine
from tests.doorbells.kvm.ringing import RingingGuest, build, check_contract, check_count
from tests.hostside.machine.playing import echo, echoing, play

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hypercall
IN_THE_KERNEL = (HyperV, XenEvtchn)
KINDS = (*IN_THE_KERNEL, HypercallExit)
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
MANY: Final = 2000

VMCALL: Final = b"\x0f\x01\xc1"
VMMCALL: Final = b"\x0f\x01\xd9"

VENDOR: Final = 0x8000 + 12  # of the boot page: hostside/machine/core/layout.h, doorbell.h
PICKED: Final = 0x8000 + 2248


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("ringing"))


@each
async def test_rung_by_the_guests_own_code_it_keeps_the_contract(
    kind: type[GuestBell], elf: Path
) -> None:
    await check_contract(kind, elf, ring=0)


@each
async def test_each_of_many_kicks_is_heard_and_the_text_stays(
    kind: type[GuestBell], elf: Path
) -> None:
    await check_count(kind, elf, ring=0, count=MANY, leaves=kind not in IN_THE_KERNEL)


@pytest.mark.parametrize("last", IN_THE_KERNEL, ids=lambda kind: kind.name)
async def test_xen_and_hyperv_are_had_together(last: type[GuestBell], elf: Path) -> None:
    """Hyper-V's pass Xen's handler by bit 31 of EAX, which the guest always sets."""
    (first,) = set(IN_THE_KERNEL) - {last}
    async with Machine(ring=0) as machine:
        guest = RingingGuest(machine, elf)
        with closing(first()) as old, closing(last()) as new:
            for bell in old, new:
                guest.attach(bell)
                guest.ring()

            assert [os.eventfd_read(bell.fileno()) for bell in (old, new)] == [1, 1]


@each
async def test_payload_is_answered(kind: type[GuestBell]) -> None:
    async with Machine(ring=0) as machine, echoing(machine, doorbell=kind) as link:
        report = await play(machine, echo(40, depth=4))

        assert report.ok, report
        assert report.figures["requests"] == 40
        assert report.figures["kicks"] > 0
        assert link.refused == {}
        assert machine.statistics().stray == 0


async def test_the_other_vendors_instruction_is_heard_and_the_text_is_not_what_it_was(
    elf: Path,
) -> None:
    """KVM_X86_QUIRK_FIX_HYPERCALL_INSN: this is what breaks attestation."""
    async with Machine(ring=0) as machine:
        guest = RingingGuest(machine, elf, believed=Vendor.INTEL)
        before = guest.text()
        with closing(HyperV()) as bell:
            guest.attach(bell)
            guest.ring(3)

            assert os.eventfd_read(bell.fileno()) == 3
        assert guest.text() == before.replace(VMCALL, VMMCALL)
        assert guest.text() != before


async def test_without_the_quirk_the_other_vendors_instruction_is_a_fault(elf: Path) -> None:
    async with Machine(ring=0) as machine:
        machine.vm.keep_hypercalls()
        guest = RingingGuest(machine, elf, believed=Vendor.INTEL)
        before = guest.text()
        with closing(HyperV()) as bell:
            guest.attach(bell)
            with pytest.raises(GuestFault, match="#UD"):
                guest.ring()

        assert guest.text() == before


async def test_payload_that_meets_the_other_vendors_cpu_picks_again_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a move: it has picked VMCALL, which is #UD here, and no text is rewritten."""
    async with Machine(ring=0) as machine, echoing(machine, doorbell=HyperV):
        machine.vm.keep_hypercalls()
        monkeypatch.setattr(machine.vm, "vendor", lambda: Vendor.INTEL)
        machine.memory.write(PICKED, (machine.boot.generation + 1).to_bytes(4, "little"))

        report = await play(machine, echo(40, depth=4))

        assert report.ok, report
        assert report.figures["requests"] == 40
        assert int.from_bytes(machine.memory.read(VENDOR, 4), "little") == Vendor.AMD


async def test_restored_as_if_on_the_other_vendor_it_picks_again_and_goes_on() -> None:
    """CPUID names Intel, so it picks VMCALL, which is #UD here; its handler takes the other."""
    count = 40
    async with Machine(ring=0) as machine, echoing(machine, doorbell=PioIoeventfd) as link:
        machine.load(payload.path())
        machine.arguments(*echo(count, depth=1).arguments())
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            while (ring := link.ring(0)) is None or ring.statistics().popped < count // 4:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        snapshot = await machine.snapshot()
    async with Machine(ring=0) as machine, echoing(machine, doorbell=HyperV):
        machine.vm.keep_hypercalls()
        machine.restore(snapshot, vendor=Vendor.INTEL)

        assert await machine.run() == 0

        report = payload.parse(machine.console.read())
        assert report.ok, report
        assert report.figures["requests"] == count
        assert int.from_bytes(machine.memory.read(VENDOR, 4), "little") == Vendor.AMD
