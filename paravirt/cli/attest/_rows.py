"""The guest booted once for each row, and its text compared."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from paravirt.doorbells.kvm import Vendor
from paravirt.guestside import payload
from paravirt.guestside.payload import Program, Task
from paravirt.hostside import serve
from paravirt.hostside.machine import Machine, TextReport, measure

from .._errors import CommandError, Interrupted
from ..doorbells._guest import PATIENCE_SECONDS, Echo, finish
from ..doorbells._rows import availability
from ._cases import Case

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.guestside.payload import Report

    from ._cases import Trial

TASK: Final = Task(program=Program.ECHO, count=50)
"""At depth 1, so that nearly every request is kicked for."""
INSTRUCTIONS: Final = {Vendor.INTEL: "vmcall", Vendor.AMD: "vmmcall"}


class Row(msgspec.Struct, frozen=True):
    """One boot."""

    doorbell: str
    case: str
    """own, other-vendor, other-vendor-kept or other-vendor-readonly; see `_cases.Case`."""
    available: bool
    outcome: str
    """How the run ended, or why it cannot be."""
    text_changed: bool | None = None
    text: TextReport | None = None


class Attestation(msgspec.Struct, frozen=True):
    """The document that `--json` prints."""

    measured: str
    """SHA-256 of the guest's text, as its file has it."""
    rows: list[Row]


def attest_all(trials: Sequence[Trial]) -> Attestation:
    """Boot the payload for each trial that this host can have.

    Raises CommandError for a guest that does not do what it should, Interrupted at Ctrl-C.
    """
    return Attestation(measure(payload.path()), [_attest(trial) for trial in trials])


def _attest(trial: Trial) -> Row:
    available, reason = availability(trial.kind)
    if not available:
        return Row(trial.kind.name, trial.case, False, reason)
    interrupted = False
    try:
        return trio.run(partial(boot, trial))
    except* KeyboardInterrupt:
        interrupted = True
    assert interrupted
    raise Interrupted


async def boot(trial: Trial) -> Row:
    """Run the payload to its end, in ring 0, since only there each kind can be rung.

    Raises CommandError if that is not how it should end.
    """
    kind, case = trial
    async with Machine(ring=0, readonly_text=case is Case.READONLY) as machine:
        own = machine.vm.vendor()
        if case is not Case.OWN:
            machine.vm.pretend(Vendor.INTEL if own is Vendor.AMD else Vendor.AMD)
        if case is Case.KEPT:
            machine.vm.keep_hypercalls()
        device = Echo()
        link = machine.plug(device, doorbell=kind)
        machine.load(payload.path())
        machine.arguments(*TASK.arguments())
        end: Report | str = f"no end within {PATIENCE_SECONDS:.0f} s"
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, device, link)
            with trio.move_on_after(PATIENCE_SECONDS):
                end = await finish(machine)
            nursery.cancel_scope.cancel()
        text = machine.attest()
        outcome = _outcome(trial, end, machine.boot.vendor, own)
        return Row(kind.name, case, True, outcome, bool(text.changed), text)


def _outcome(trial: Trial, end: Report | str, vendor: Vendor, own: Vendor) -> str:
    if isinstance(end, str):
        if trial.case is not Case.READONLY:
            raise CommandError(f"{trial.kind.name}, {trial.case}: {end}", 1)
        return f"ended: {end.splitlines()[0]}"
    # The guest counts those that the ring asks for, also where there is nothing to ring.
    kicks = end.figures["kicks"] if trial.kind.notifies else 0
    went = f"{end.figures['requests']} requests answered, {kicks} kicks"
    if trial.case is Case.KEPT and vendor is own:
        return f"{went}; #UD, then the guest took {INSTRUCTIONS[own]}"
    return went
