"""A guest that kicks, or a device that interrupts, as fast as it can: nobody starves."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import EventFd
from paravirt.doorbells.kvm import MmioExit, MmioIoeventfd, PioExit, PioIoeventfd
from paravirt.guestside import payload
from paravirt.hostside.machine import Irqfd, Machine
from tests.hostside.machine.guests import build_c, load_beside
from tests.hostside.machine.playing import Echo, echo, echoing

if TYPE_CHECKING:
    from paravirt.doorbells import Doorbell
    from paravirt.hostside.machine import MachineLink

pytestmark = pytest.mark.kvm

STORM = Path(__file__).with_name("storm.c")
BESIDE = 48 << 20  # far behind what the payload uses of its pool
BELL, COUNT = 10, 11  # arguments: see storm.c


def answered(link: MachineLink) -> int:
    """Return how many requests of queue 0 the device has given back."""
    ring = link.ring(0)
    return 0 if ring is None else ring.statistics().completed


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        (PioIoeventfd, 10**6),
        (MmioIoeventfd, 10**5),
        (PioExit, 10**4),
        (MmioExit, 10**4),
        (EventFd, 10**4),
    ],
    ids=lambda value: str(getattr(value, "name", value)),
)
async def test_kick_storm_does_not_starve_the_other_device_of_the_machine(
    tmp_path: Path, kind: type[Doorbell], count: int
) -> None:
    """2.7.13.4 allows a kick without a buffer. One vCPU storms, the other has its echo device."""
    arguments = [*echo(0, depth=4).arguments(), *[0] * 6]
    arguments[BELL], arguments[COUNT] = len(Echo.queue_sizes), count
    async with (
        Machine(vcpus=2) as machine,
        echoing(machine) as calm,
        echoing(machine, doorbell=kind) as storm,
        trio.open_nursery() as nursery,
    ):
        machine.load(payload.path())
        load_beside(machine, 1, build_c(tmp_path, STORM, BESIDE))
        machine.arguments(*arguments)
        await nursery.start(machine.run)
        assert await machine.console.line() == "b"
        before = answered(calm)
        assert await machine.console.line() == "e"
        during = answered(calm) - before
        payload.stop(machine.boot)
        report = payload.parse(await machine.console.line())
        ring = storm.ring(0)

        assert report.ok, report
        assert during >= 100
        assert ring is not None
        assert ring.statistics().popped == 0
        assert 0 < storm.kicks[0].statistics().wakes <= count + 1
        assert storm.refused == calm.refused == {}


async def test_interrupt_storm_is_counted_and_lets_the_guest_go_on(ring: int) -> None:
    """A thread calls without a pause; what the guest has not taken yet merges."""
    calm = threading.Event()
    rung = itertools.count()

    def storm(bell: Doorbell) -> None:
        while not calm.is_set():
            bell.ring()
            next(rung)

    async with (
        Machine(ring=ring) as machine,
        echoing(machine, call_doorbell=Irqfd) as link,
        trio.open_nursery() as nursery,
    ):
        machine.load(payload.path())
        machine.arguments(*echo(30, interrupt=True).arguments())
        nursery.start_soon(trio.to_thread.run_sync, partial(storm, link.calls[0]))
        try:
            assert await machine.run() == 0
        finally:
            calm.set()

        assert payload.parse(machine.console.read()).ok
        assert link.interrupts >= next(rung) > 0
        assert link.interrupts >= machine.boot.interrupts > 0
