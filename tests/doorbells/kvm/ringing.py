"""A guest on a real machine that rings when it is told to, by `guest/doorbell.h`."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import closing
from importlib import resources
from typing import TYPE_CHECKING

from paravirt.doorbells.kvm import Vendor
from paravirt.doorbells.testing import check_doorbell
from paravirt.hostside.machine import Machine
from paravirt.hostside.machine._exits import Exits
from paravirt.hostside.machine._faults import raise_for
from paravirt.hostside.machine._kvm import lib
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

    from paravirt.doorbells import Doorbell
    from paravirt.doorbells.kvm import GuestBell

SOURCE = """
#include "doorbell.h"
void _start(struct pv_boot_page *boot);
void _start(struct pv_boot_page *boot)
{
    for (;;) {
        for (uint64_t i = 0; i < boot->arguments[0]; i++)
            pv_bell_ring(boot, 0);
        *(volatile uint32_t *)(boot->console + 8) = 0;
    }
}
"""


def build(folder: Path) -> Path:
    """Compile the guest."""
    source, linked, elf = folder / "ringing.c", folder / "ringing.o", folder / "ringing.elf"
    source.write_text(SOURCE)
    how = ["-std=c11", "-O2", "-ffreestanding", "-fno-pic", "-fno-stack-protector"]
    bare = ["-fcf-protection=none", "-mno-red-zone", "-mgeneral-regs-only"]
    header = ["-I", str(resources.files("paravirt.doorbells") / "guest")]
    command = [need("gcc", "gcc"), *how, *bare, *header, "-c", str(source), "-o", str(linked)]
    subprocess.run(command, check=True)
    place = ["-N", "--no-warn-rwx-segments", f"-Ttext={lib.PV_PAYLOAD:#x}"]
    subprocess.run([need("ld", "binutils"), *place, str(linked), "-o", str(elf)], check=True)
    return elf


class RingingGuest:
    """Runs a machine's guest for as long as it takes to ring, in the thread that wants it to.

    In ring 0 it finds out the CPU's vendor by itself, unless it is to believe in another.
    """

    def __init__(self, machine: Machine, elf: Path, *, believed: Vendor | None = None) -> None:
        self._machine = machine
        self.exits = Exits(machine.vm, slot=0, first_bell=0, ring=machine.ring)
        self._one_at_a_time = threading.Lock()
        machine.load(elf)
        machine.boot.describe_machine(
            vendor=Vendor.INTEL if believed is None else believed,
            cpl=machine.ring if believed is None else 3,
            kinds=(),
            console=lib.PV_CONSOLE,
            device=lib.PV_BLOCK,
            pool=0,
            pool_size=0,
            vector=lib.PV_VECTOR,
            queues=1,
        )

    def attach(self, bell: GuestBell) -> int:
        """Make a doorbell the one that the guest rings; returns its generation."""
        return self._machine.boot.put_bell(0, bell.attach(self.exits, 0))

    def ring(self, times: int = 1) -> None:
        """Let the guest ring so often. Raises MachineError if it cannot go on."""
        vcpu = self._machine.vcpus[0]
        with self._one_at_a_time:
            self._machine.arguments(times)
            while (left := vcpu.enter()) == lib.PV_LEFT_STOPPED:
                vcpu.allow()
                vcpu.do_chores()
            if left != lib.PV_LEFT_CODE:
                raise_for(left, vcpu, self._machine.memory)

    def text(self) -> bytes:
        """Return what is in memory of its code now."""
        return bytes(self._machine.memory.view(lib.PV_PAYLOAD, 4096)[0])


async def check_contract(kind: type[GuestBell], elf: Path, *, ring: int) -> None:
    """Hold a kind of doorbell to the contract of all, rung by a guest in one of the CPU's rings."""
    async with Machine(ring=ring) as machine:
        guest = RingingGuest(machine, elf)

        def make() -> Doorbell:
            bell = kind()
            guest.attach(bell)
            return bell

        await check_doorbell(make, lambda _: guest.ring())


async def check_count(
    kind: type[GuestBell], elf: Path, *, ring: int, count: int, leaves: bool
) -> None:
    """Check that so many kicks are heard, that each or none leaves the kernel, and the text stays.

    The guest picks the instruction by CPUID, so KVM has nothing to rewrite.
    """
    async with Machine(ring=ring) as machine:
        guest = RingingGuest(machine, elf)
        before = guest.text()
        with closing(kind()) as bell:
            guest.attach(bell)
            guest.ring(count)

            assert os.eventfd_read(bell.fileno()) == count
        assert guest.text() == before
        assert machine.statistics().kicks == (count if leaves else 0)
        assert machine.statistics().stray == 0
