"""Ctrl-C anywhere in a machine: no vCPU stays in the guest, and no descriptor stays open."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import paravirt.hostside.machine as room
from paravirt.hostside import serve
from paravirt.hostside.machine import Machine
from tests.hostside.machine.guests import ends
from tests.hostside.machine.playing import Echo

if TYPE_CHECKING:
    import random
    from types import FrameType

    from tests.hostside.machine.conftest import Guest

pytestmark = pytest.mark.kvm

ROOM = str(Path(room.__file__).resolve().parent)
ROUNDS = 150
Line = tuple[str, int]
Tracer = Callable[["FrameType", str, Any], Any]


@functools.cache
def in_room(path: str) -> bool:
    """Tell the room's files, by whatever path they were imported."""
    return os.path.realpath(path).startswith(ROOM)


def ctrl_c_at(number: int = 0) -> tuple[Tracer, dict[Line, None]]:
    """Return a tracer that has Ctrl-C pressed when it first comes to the line of that number.

    And the room's lines, to be filled in the order in which it comes to them.
    """
    seen: dict[Line, None] = {}

    def trace(frame: FrameType, event: str, _: object) -> Tracer | None:
        if not in_room(frame.f_code.co_filename):
            return None
        line = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and line not in seen:
            seen[line] = None
            if len(seen) == number:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    return trace, seen


def run_traced(scene: Callable[[], Any], tracer: Tracer) -> bool:
    """Run a scene to its end; tells whether Ctrl-C ended it."""

    async def traced() -> None:
        sys.settrace(tracer)
        try:
            await scene()
        finally:
            sys.settrace(None)

    stopped = False
    try:
        trio.run(traced)
    except* KeyboardInterrupt:
        stopped = True
    return stopped


def test_ctrl_c_before_any_line_leaves_nothing_behind(guest: Guest, rng: random.Random) -> None:
    """The whole life of a machine, with a device, a payload and a run that ends."""
    elf = guest(ends(7))

    async def scene() -> None:
        async with Machine(vcpus=2) as machine, trio.open_nursery() as nursery:
            device = Echo()
            link = machine.plug(device)
            await nursery.start(serve, device, link)
            machine.load(elf)
            assert await machine.run() == 7
            nursery.cancel_scope.cancel()

    tracer, lines = ctrl_c_at()
    assert not run_traced(scene, tracer)
    before = set(os.listdir("/proc/self/fd"))
    stopped = 0
    for number in rng.sample(range(1, len(lines) + 1), ROUNDS):
        stopped += run_traced(scene, ctrl_c_at(number)[0])
        assert set(os.listdir("/proc/self/fd")) == before, list(lines)[number - 1]
    assert stopped > ROUNDS / 2


def test_ctrl_c_while_the_guest_runs_ends_the_run_and_the_machine(guest: Guest) -> None:
    """The main task sleeps in `run`, which is where trio then raises it."""
    elf = guest("mov $CONSOLE, %ebx\n movb $10, (%rbx)\n 1: jmp 1b")
    out: list[bool] = []

    @trio.lowlevel.enable_ki_protection
    async def press(machine: Machine) -> None:
        await machine.console.line()
        signal.raise_signal(signal.SIGINT)

    async def scene() -> None:
        async with Machine(vcpus=2) as machine, trio.open_nursery() as nursery:
            machine.load(elf)
            nursery.start_soon(press, machine)
            try:
                await machine.run()
            finally:
                out.extend(vcpu.registers().values["rip"] > 0 for vcpu in machine.vcpus)

    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(scene)

    assert caught.group_contains(KeyboardInterrupt)
    assert out == [True, True]
    assert set(os.listdir("/proc/self/fd")) == before
