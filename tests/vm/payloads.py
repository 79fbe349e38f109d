"""The payload on a real KVM, with a device served to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from paravirt.guestside import payload
from paravirt.guestside.payload import PayloadResult, Report
from paravirt.hostside import Device, Request, serve
from paravirt.hostside.machine import Irqfd, Machine, MachineStatistics

if TYPE_CHECKING:
    from paravirt.doorbells import DoorbellMaker
    from paravirt.guestside.payload import Task


class Echo(Device):
    """Sends back what it got."""

    device_id = 42

    def __init__(self, queues: int = 1) -> None:
        self.queue_sizes = (256,) * queues

    def handle(self, request: Request) -> None:
        request.reply(request.read())


class Ended(msgspec.Struct, frozen=True):
    """How the payload ended."""

    code: PayloadResult
    report: Report
    machine: MachineStatistics
    refused: dict[str, int]
    """What the guest did that the register block did not allow."""


async def run_payload(
    device: Device,
    task: Task,
    *,
    doorbell: DoorbellMaker,
    call_doorbell: DoorbellMaker = Irqfd,
    ring: int = 3,
    vcpus: int = 1,
    features: int = ~0,
) -> Ended:
    """Boot the payload against a device, and run one task to its end."""
    async with Machine(ring=ring, vcpus=vcpus) as machine, trio.open_nursery() as nursery:
        link = machine.plug(
            device, doorbell=doorbell, call_doorbell=call_doorbell, features=features
        )
        machine.load(payload.path())
        machine.arguments(*task.arguments())
        await nursery.start(serve, device, link)
        code = await machine.run()
        nursery.cancel_scope.cancel()
        report = payload.parse(machine.console.read())
        return Ended(PayloadResult(code), report, machine.statistics(), link.refused)
    raise AssertionError("a nursery swallowed the end of the guest")
