"""A disk in a virtual machine: a bare-metal guest writes a pattern and reads it back."""

from __future__ import annotations

import tempfile

import trio

from paravirt.doorbells.kvm import GuestBell, MmioIoeventfd, PioIoeventfd
from paravirt.guestside import payload
from paravirt.guestside.payload import Program, Task
from paravirt.hostside import Block, serve
from paravirt.hostside.machine import Machine

TASK = Task(program=Program.BLOCK, count=256, depth=16, interrupt=True)


async def run(disk: Block, doorbell: type[GuestBell]) -> str:
    async with Machine() as machine, trio.open_nursery() as nursery:
        link = machine.plug(disk, doorbell=doorbell)
        await nursery.start(serve, disk, link)
        machine.load(payload.path())
        machine.arguments(*TASK.arguments())
        await machine.run()
        nursery.cancel_scope.cancel()
        return machine.console.read()


async def main() -> None:
    with tempfile.NamedTemporaryFile(suffix=".img") as image:
        image.truncate(4 << 20)
        for doorbell in (PioIoeventfd, MmioIoeventfd):
            with Block(image.name) as disk:
                print(doorbell.name, payload.parse(await run(disk, doorbell)))


if __name__ == "__main__":
    trio.run(main)
