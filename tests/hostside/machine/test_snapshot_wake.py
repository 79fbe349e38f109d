"""A kick and an interrupt that were lost at the stop are made up for by those of the restore."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells.kvm import PioIoeventfd
from paravirt.guestside import payload
from paravirt.hostside import serve
from paravirt.hostside.machine import GuestStalled, Irqfd, Machine
from paravirt.transport.link import QueueStart
from tests.hostside.machine.playing import Echo, echo, echoing

if TYPE_CHECKING:
    from paravirt.hostside import Request
    from paravirt.hostside.machine import MachineLink
    from paravirt.transport.link import Change

pytestmark = pytest.mark.kvm

LIMIT_S = 60
"""For what takes some milliseconds."""


class Lost(Irqfd):
    """Interrupts nobody."""

    def ring(self) -> None:
        """Lose it."""


class Gate(Echo):
    """Answers once it is opened."""

    def __init__(self) -> None:
        self.opened = trio.Event()

    async def handle(self, request: Request) -> None:  # type: ignore[override]
        await self.opened.wait()
        request.reply(request.read())


async def sleeping(machine: Machine, link: MachineLink, popped: int) -> None:
    """Run one request until its guest sleeps for ever, so many taken by the device."""
    machine.load(payload.path())
    machine.arguments(*echo(1, interrupt=True).arguments())
    while True:
        with pytest.raises(GuestStalled):
            await machine.run(stall=0.1)
        ring = link.ring(0)
        if ring and ring.statistics().popped == popped and machine.vcpus[0].halted():
            return


async def test_a_guest_whose_interrupt_was_lost_wakes_by_the_one_of_the_restore() -> None:
    """What it waits for is in the used ring already: the device has nothing more to say."""
    gate = Gate()
    async with Machine() as machine, echoing(machine, device=gate, call_doorbell=Lost) as link:
        await sleeping(machine, link, popped=1)
        gate.opened.set()
        snapshot = await machine.snapshot(drain=LIMIT_S)
    (queue,) = snapshot.links[0].queues
    assert (queue.used, queue.heads) == (1, ())
    async with Machine() as machine, echoing(machine, call_doorbell=Irqfd):
        machine.restore(snapshot)

        with trio.fail_after(LIMIT_S):
            assert await machine.run() == 0


async def test_a_device_whose_kick_was_lost_hears_the_one_of_the_restore(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looks at its queue only when kicked, and the guest sleeps: nobody kicks any more."""
    async with Machine() as machine:
        link = machine.plug(Echo(), doorbell=PioIoeventfd, call_doorbell=Irqfd)
        await sleeping(machine, link, popped=0)
        snapshot = await machine.snapshot(drain=0)
    async with Machine() as machine, trio.open_nursery() as nursery:
        link = machine.plug(device := Echo(), doorbell=PioIoeventfd, call_doorbell=Irqfd)
        changes = link.next_change

        async def once_kicked() -> Change | None:
            change = await changes()
            if isinstance(change, QueueStart):
                await change.kick.wait()
            return change

        monkeypatch.setattr(link, "next_change", once_kicked)
        await nursery.start(serve, device, link)
        machine.restore(snapshot)

        with trio.fail_after(LIMIT_S):
            assert await machine.run() == 0
        nursery.cancel_scope.cancel()
