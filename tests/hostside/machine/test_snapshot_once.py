"""What was in hand at the stop is executed once more, and nothing else is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells.kvm import MmioIoeventfd
from paravirt.guestside import payload
from paravirt.hostside.machine import Irqfd, Machine
from tests.hostside.machine.playing import Echo, echo, echoing

if TYPE_CHECKING:
    import random

    from paravirt.hostside import Request

pytestmark = pytest.mark.kvm

COUNT = 600
DEPTH = 16


class Gate(Echo):
    """Notes what it begins and what it ends; after so many ends nothing ends any more."""

    def __init__(self, opens: int) -> None:
        self.left = opens
        self.begun: Counter[bytes] = Counter()
        self.ended: Counter[bytes] = Counter()

    async def handle(self, request: Request) -> None:  # type: ignore[override]
        data = request.read()
        self.begun[data] += 1
        if self.left == 0:
            await trio.sleep_forever()
        self.left -= 1
        self.ended[data] += 1
        request.reply(data)


@pytest.mark.parametrize("stop", range(3))
async def test_each_request_in_hand_is_executed_again_and_completed_once(
    rng: random.Random, stop: int
) -> None:
    """Each request has bytes of its own: the payload's pattern depends on its number."""
    del stop
    first, second = Gate(rng.randrange(COUNT - DEPTH)), Gate(COUNT)
    async with Machine() as machine, echoing(machine, device=first, call_doorbell=Irqfd):
        machine.load(payload.path())
        machine.arguments(*echo(COUNT, depth=DEPTH, interrupt=True).arguments())
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            while len(first.begun) - len(first.ended) < DEPTH:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        snapshot = await machine.snapshot(drain=0)
    in_hand = first.begun - first.ended
    assert len(snapshot.links[0].queues[0].heads) == len(in_hand) == DEPTH
    async with (
        Machine() as machine,
        echoing(machine, device=second, doorbell=MmioIoeventfd, call_doorbell=Irqfd),
    ):
        machine.restore(snapshot)
        with trio.fail_after(60):
            assert await machine.run() == 0

    assert {data: second.begun[data] for data in in_hand} == dict(in_hand)
    assert len(first.ended + second.ended) == (first.ended + second.ended).total() == COUNT
