"""One task of the payload with one doorbell, and what it took."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from paravirt.doorbells.kvm import HypercallExit, HyperV, XenEvtchn
from paravirt.guestside import payload
from paravirt.guestside.payload import STAMP, Program
from paravirt.hostside import Device, Request, serve
from paravirt.hostside.machine import Machine, MachineError, TextReport

from .._errors import CommandError
from ..bench._serve import Plain

if TYPE_CHECKING:
    from paravirt.doorbells import Doorbell
    from paravirt.guestside.payload import Report, Task

PATIENCE_SECONDS: Final = 120.0
"""For one task, which takes tenths of a second: a guest that is longer has lost a notification."""
HYPERCALLS: Final = (HyperV, XenEvtchn, HypercallExit)
"""KVM serves hypercalls of ring 0 only."""
_TIME_STAMP_COUNTER: Final = 0x10  # Intel SDM volume 4, IA32_TIME_STAMP_COUNTER
_LOOKS: Final = 50


class Outcome(msgspec.Struct, frozen=True):
    """How a task went."""

    figures: dict[str, int]
    """What the payload says, times in cycles."""
    ns_per_cycle: float
    """Of the guest's time stamp counter."""
    wakes_ns: list[float]
    """From each publication to the device's handler; right at depth 1 only."""
    user_kicks: int
    """Kicks that left the kernel."""
    text: TextReport


class Echo(Device):
    """Sends everything back."""

    device_id = 42
    queue_sizes = (256,)

    def handle(self, request: Request) -> None:
        """Answer at once."""
        request.reply(request.read())


class StampedEcho(Echo):
    """The same, and notes when the guest published a request and when it came here."""

    def __init__(self) -> None:
        self.machine: Machine | None = None
        self.times: list[tuple[int, int]] = []
        """The guest's cycles, our nanoseconds."""

    def handle(self, request: Request) -> None:
        """Note the time first."""
        now = time.perf_counter_ns()
        if self.machine is not None:
            self.times.append((self.machine.boot.arguments[STAMP], now))
        super().handle(request)


class Clocks:
    """The guest's cycle counter against our clock, by looks at both before and after a run."""

    def __init__(self, machine: Machine) -> None:
        self._vcpu = machine.vcpus[0]
        self._first = self._look()
        self.ns_per_cycle = 0.0

    def stop(self) -> None:
        """Look again; the vCPU must not run."""
        cycles, ns = self._look()
        self.ns_per_cycle = (ns - self._first[1]) / (cycles - self._first[0])

    def elapsed_ns(self, cycles: int, ns: int) -> float:
        """Return how much later than the guest's count our time is."""
        return (ns - self._first[1]) - (cycles - self._first[0]) * self.ns_per_cycle

    def _look(self) -> tuple[int, int]:
        """Read the counter between two looks at the clock, the closest pair of some."""
        pairs: list[tuple[int, int, int]] = []
        for _ in range(_LOOKS):
            before = time.perf_counter_ns()
            cycles = self._vcpu.read_msr(_TIME_STAMP_COUNTER)
            after = time.perf_counter_ns()
            pairs.append((after - before, cycles, (before + after) // 2))
        return min(pairs)[1:]


async def run_task(kind: type[Doorbell], task: Task, *, stamped: bool = False) -> Outcome:
    """Boot the payload and let it do a task with a doorbell, in ring 3 where KVM lets it.

    Ring 0 is emulated on some hosts, at a microsecond an instruction. A LOAD has the device of
    `bench serve` to talk to, everything else an echo. Raises CommandError for a guest that fails
    or does not end; what `Machine` raises.
    """
    plain = task.program is Program.LOAD
    device = Plain() if plain else StampedEcho() if stamped else Echo()
    ring = 0 if issubclass(kind, HYPERCALLS) else 3
    async with Machine(ring=ring) as machine:
        if isinstance(device, StampedEcho):
            device.machine = machine
        link = machine.plug(device, doorbell=kind)
        machine.load(payload.path())
        machine.arguments(*task.arguments())
        clocks = Clocks(machine)
        end: Report | str = f"no end within {PATIENCE_SECONDS:.0f} s"
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, device, link)
            with trio.move_on_after(PATIENCE_SECONDS):
                end = await finish(machine)
            nursery.cancel_scope.cancel()
        if isinstance(end, str):
            raise CommandError(f"{kind.name}: {end}", 1)
        clocks.stop()
        times = device.times if isinstance(device, StampedEcho) else []
        return Outcome(
            figures=end.figures,
            ns_per_cycle=clocks.ns_per_cycle,
            wakes_ns=[clocks.elapsed_ns(*pair) for pair in times],
            user_kicks=machine.statistics().kicks,
            text=machine.attest(),
        )


async def finish(machine: Machine) -> Report | str:
    """Run the guest; returns its report, or what went wrong."""
    try:
        await machine.run()
        report = payload.parse(machine.console.read())
    except (MachineError, ValueError) as error:
        return str(error)
    return report if report.ok else f"the guest failed: {report.reason} {report.detail}"
