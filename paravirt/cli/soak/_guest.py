"""The load on KVM: a guest without an operating system, which compares every reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from paravirt.doorbells import Adaptive, Doorbell, Polling
from paravirt.doorbells.kvm import GUEST_KINDS, GuestBell, probe
from paravirt.guestside import payload
from paravirt.guestside.payload import Program, Task
from paravirt.hostside import serve
from paravirt.hostside.machine import Machine

from ..doorbells._guest import HYPERCALLS, finish
from ._swaps import Counting, Swaps, make_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paravirt.guestside.payload import Report

    from ._row import Load, Plan, Row

PATIENCE: Final = 10.0
"""Seconds for the replies that are due at the end: they take microseconds, in ring 0 of some hosts
milliseconds."""


def guest_kinds() -> list[type[Doorbell]]:
    """Return the doorbells that a guest can have here."""
    here = {answer.name for answer in probe() if answer.available}
    kvm: list[type[GuestBell]] = [kind for kind in GUEST_KINDS if kind.name in here]
    return [*kvm, Polling, Adaptive]


async def soak_guest(load: Load, plan: Plan, progress: Callable[[float], None]) -> Row:
    """Change the doorbell of a guest's queue; raises what `Machine` raises."""
    kinds = guest_kinds()
    device = Counting()
    swaps = Swaps(kinds, plan)
    async with Machine(ring=_ring(kinds)) as machine:
        link = machine.plug(device, doorbell=kinds[0])
        machine.load(payload.path())
        machine.arguments(*_task(load).arguments())
        ends: list[Report | str] = []

        async def run() -> None:
            ends.append(await finish(machine))
            swapping.cancel()

        async with trio.open_nursery() as nursery:
            await nursery.start(serve, device, link)
            with trio.CancelScope() as swapping:
                nursery.start_soon(run)
                await swaps.run(link, kinds[0], progress)
                payload.stop(machine.boot)
                await trio.sleep(PATIENCE)
            nursery.cancel_scope.cancel()
    return _row(load, plan, swaps, device, ends)


def _ring(kinds: Sequence[type[Doorbell]]) -> int:
    """Ring 3 runs natively everywhere, but KVM takes hypercalls of ring 0 only."""
    return 0 if set(kinds) & set(HYPERCALLS) else 3


def _task(load: Load) -> Task:
    return Task(program=Program.ECHO, count=0, depth=load.depth, interrupt=load.interrupt)


def _row(
    load: Load, plan: Plan, swaps: Swaps, device: Counting, ends: Sequence[Report | str]
) -> Row:
    end = ends[0] if ends else f"no end within {PATIENCE:.0f} s: a reply or an interrupt was lost"
    if isinstance(end, str):
        return make_row(load, plan, swaps, device, failure=end, sent=None)
    return make_row(load, plan, swaps, device, failure="", sent=end.figures["requests"])
