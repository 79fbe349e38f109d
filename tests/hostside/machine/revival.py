"""A process that restores a machine and runs it to its end: `python -m ... FILE BELL VENDOR`.

Prints what the payload said, as one line of JSON; without VENDOR ("") the CPU is this machine's.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells.kvm import MmioExit, MmioIoeventfd, PioExit, PioIoeventfd, Vendor
from paravirt.hostside.machine import Irqfd, Machine, Snapshot
from tests.hostside.machine.playing import Echo, echoing

if TYPE_CHECKING:
    from paravirt.doorbells.kvm import GuestBell

BELLS: dict[str, type[GuestBell]] = {
    bell.name: bell for bell in (MmioExit, MmioIoeventfd, PioExit, PioIoeventfd)
}
LIMIT_S = 60
"""For all that a restored machine has left to do; it takes about one."""


async def revive(path: str, bell: str, vendor: str) -> dict[str, object]:
    snapshot = Snapshot.load(path)
    vcpus, ring = len(snapshot.vcpus), snapshot.ring
    other = Vendor[vendor] if vendor else None
    with trio.fail_after(LIMIT_S):
        async with (
            Machine(ring=ring, vcpus=vcpus) as machine,
            echoing(machine, device=Echo(), doorbell=BELLS[bell], call_doorbell=Irqfd) as link,
        ):
            machine.restore(snapshot, vendor=other)
            life = machine.boot.generation
            code = await machine.run()
            return {
                "code": code,
                "console": machine.console.read(),
                "life": life,
                "refused": link.refused,
            }


if __name__ == "__main__":
    file, name, maker = sys.argv[1:]
    print(json.dumps(trio.run(revive, file, name, maker)))
