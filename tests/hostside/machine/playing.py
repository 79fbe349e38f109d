"""A machine with an echo device and the payload, as several tests want it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import Polling
from paravirt.doorbells.kvm import PioIoeventfd
from paravirt.guestside import payload
from paravirt.guestside.payload import Program, Report, Task
from paravirt.hostside import Device, Request, serve

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from paravirt.doorbells import DoorbellMaker
    from paravirt.hostside.machine import Machine, MachineLink


class Echo(Device):
    """Sends back what it gets."""

    device_id = 42
    queue_sizes: Sequence[int] = (256, 256)

    def handle(self, request: Request) -> None:
        request.reply(request.read())


@asynccontextmanager
async def echoing(
    machine: Machine,
    *,
    doorbell: DoorbellMaker = PioIoeventfd,
    call_doorbell: DoorbellMaker = Polling,
    device: Device | None = None,
) -> AsyncGenerator[MachineLink, None]:
    """Plug a device in and serve it; the machine may be run inside."""
    device = device or Echo()
    link = machine.plug(device, doorbell=doorbell, call_doorbell=call_doorbell)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        yield link
        nursery.cancel_scope.cancel()


def echo(
    count: int, *, depth: int = 1, interrupt: bool = False, queues: int = 1, patience: int = 0
) -> Task:
    """Return the task of the payload that sends requests to an echo device."""
    return Task(
        program=Program.ECHO,
        count=count,
        depth=depth,
        interrupt=interrupt,
        queues=queues,
        patience=patience,
    )


async def play(machine: Machine, task: Task) -> Report:
    """Run the payload to its end and return its report."""
    machine.load(payload.path())
    machine.arguments(*task.arguments())
    await machine.run()
    return payload.parse(machine.console.read())
