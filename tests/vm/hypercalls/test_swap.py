"""The doorbell of a running guest changes to a hypercall and back, under load."""

from __future__ import annotations

from itertools import product

import pytest
import trio

from paravirt.doorbells import Doorbell, Polling
from paravirt.doorbells.kvm import HypercallExit, HyperV, MmioExit, PioIoeventfd, XenEvtchn
from paravirt.guestside import payload
from paravirt.hostside.machine import Machine
from paravirt.transport import SwapRefused
from tests.hostside.machine.playing import echo, echoing

pytestmark = pytest.mark.hypercall

KINDS: tuple[type[Doorbell], ...] = (
    *(PioIoeventfd, MmioExit, Polling),
    *(HyperV, XenEvtchn, HypercallExit),
)
APART: set[frozenset[type[Doorbell]]] = {
    frozenset({HyperV}),
    frozenset({XenEvtchn}),
    frozenset({HyperV, HypercallExit}),
    frozenset({XenEvtchn, HypercallExit}),
}
"""Of which KVM can have only one at a time: a queue has one connection and one event channel, and
all hypercalls go to Hyper-V's and Xen's handlers, or to KVM's own."""


async def test_any_kind_follows_any_other_that_kvm_can_have_beside_it() -> None:
    """Each answer is compared by the guest; a lost kick would hang it."""
    refused: set[frozenset[type[Doorbell]]] = set()
    async with Machine(ring=0) as machine, echoing(machine, doorbell=PioIoeventfd) as link:
        machine.load(payload.path())
        machine.arguments(*echo(0, depth=1).arguments())
        async with trio.open_nursery() as running:
            await running.start(machine.run)
            for old, new in product(KINDS, repeat=2):
                await link.swap(Polling)
                await link.swap(old)
                try:
                    await link.swap(new)
                except SwapRefused:
                    refused.add(frozenset((old, new)))
                    assert link.kicks[0].name == old.name
                else:
                    assert link.kicks[0].name == new.name
            payload.stop(machine.boot)
        report = payload.parse(machine.console.read())

    assert report.ok, report
    assert report.figures["requests"] > 0
    assert machine.statistics().stray == 0
    assert refused == APART
