"""A guest's doorbell, changed while the guest uses it."""

from __future__ import annotations

import trio

from paravirt.doorbells import Polling
from paravirt.doorbells.kvm import MmioExit, MmioIoeventfd, PioIoeventfd
from paravirt.guestside import payload
from paravirt.guestside.payload import Program, Task
from paravirt.hostside import serve
from paravirt.hostside.machine import Machine

from .upper import Upper

TASK = Task(program=Program.LOAD, count=0, interrupt=True)


async def main() -> None:
    device = Upper()
    async with Machine() as machine, trio.open_nursery() as nursery:
        link = machine.plug(device, doorbell=PioIoeventfd)
        machine.load(payload.path())
        machine.arguments(*TASK.arguments())
        await nursery.start(serve, device, link)
        async with trio.open_nursery() as running:
            await running.start(machine.run)
            for doorbell in (MmioIoeventfd, MmioExit, Polling, PioIoeventfd):
                await link.swap(doorbell, queue=0)
                print("now", link.kicks[0].name)
            payload.stop(machine.boot)
        nursery.cancel_scope.cancel()
        print(payload.parse(machine.console.read()))


if __name__ == "__main__":
    trio.run(main)
