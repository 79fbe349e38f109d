"""Waits that are cancelled: what they leave behind is what their docstrings say."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
import trio.testing

from paravirt.doorbells import Polling
from paravirt.guestside import payload
from paravirt.hostside.machine import Machine
from paravirt.transport.link import ConfigWrite, DriverReady, QueueStart
from paravirt.transport.mmio import Register
from tests.devices import Tank
from tests.hostside.machine.guests import ends
from tests.hostside.machine.playing import Echo, echo, echoing
from tests.hostside.machine.scripted import READY, Row, negotiation, play_rows, queue_rows

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from paravirt.hostside import Request
    from paravirt.transport.link import Change
    from tests.hostside.machine.conftest import Guest

pytestmark = pytest.mark.kvm

T = TypeVar("T")
WRITES = 40
CONFIGURATION = 0x100  # 4.2.2: where it begins in the register block


async def insist(wait: Callable[[], Awaitable[T]], rng: random.Random) -> T:
    """Wait, and give up after some steps, until once it was not given up."""
    while True:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_later, nursery.cancel_scope, rng.randrange(6))
            found = await wait()
            nursery.cancel_scope.cancel()
            return found


async def cancel_later(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_line_of_the_console_is_not_lost(guest: Guest, rng: random.Random) -> None:
    """The guest prints a line in two halves, and waits are given up before and between them."""
    source = """
        mov $CONSOLE, %ebx
        movb $'a', (%rbx)
    1:  cmpq $7, 72(%rdi)
        jne 1b
        movb $'b', (%rbx)
        movb $10, (%rbx)
    """
    async with Machine() as machine, trio.open_nursery() as nursery:
        machine.load(guest(source + ends(0)))
        nursery.start_soon(machine.run)
        for _ in range(20):
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_later, scope, rng.randrange(6))
                await machine.console.line()
        machine.arguments(7)

        assert await insist(machine.console.line, rng) == "ab"


async def test_change_of_the_driver_is_not_lost(tmp_path: Path, rng: random.Random) -> None:
    """All come, once and in their order, to a server that gives up waiting again and again."""
    rows = [*negotiation(), *queue_rows(), *READY, Row(Register.STATUS, 15)]
    rows += [Row(CONFIGURATION, level) for level in range(WRITES)]
    changes: list[Change | None] = []
    async with Machine() as machine, trio.open_nursery() as nursery:
        link = machine.plug(Tank(), doorbell=Polling)
        nursery.start_soon(play_rows, machine, tmp_path, *rows)
        for _ in range(2 + WRITES):
            changes.append(await insist(link.next_change, rng))

    first, second, *rest = changes
    assert isinstance(first, QueueStart)
    assert isinstance(second, DriverReady)
    written = [change.data[0] for change in rest if isinstance(change, ConfigWrite)]
    assert written == list(range(WRITES))


async def test_second_wait_for_changes_or_lines_is_refused(guest: Guest) -> None:
    async with Machine() as machine, trio.open_nursery() as nursery:
        link = machine.plug(Echo())
        for wait in (machine.console.line, link.next_change):
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await wait()
        nursery.cancel_scope.cancel()


class Slow(Echo):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.go_on = trio.Event(), trio.Event()

    async def handle(self, request: Request) -> None:  # type: ignore[override]
        self.asked.set()
        await self.go_on.wait()
        request.reply(request.read())


async def test_snapshot_that_was_given_up_has_changed_nothing() -> None:
    """It waits for the request in hand; the run then goes on and the request is answered."""
    device = Slow()
    async with Machine() as machine, echoing(machine, device=device):
        machine.load(payload.path())
        machine.arguments(*echo(5).arguments())
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            await device.asked.wait()
            nursery.cancel_scope.cancel()
        before = [vcpu.registers() for vcpu in machine.vcpus]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.snapshot)
            nursery.start_soon(cancel_later, nursery.cancel_scope, 5)

        assert [vcpu.registers() for vcpu in machine.vcpus] == before
        device.go_on.set()
        assert await machine.run() == 0
        assert payload.parse(machine.console.read()).ok


async def test_run_without_enough_threads_leaves_those_that_it_has(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's limit: the run is over before it began, and the next one works."""
    start, began = trio.lowlevel.start_thread_soon, 0

    def scarce(*arguments: object) -> None:
        nonlocal began
        began += 1
        if began == 3:
            raise RuntimeError("can't start new thread")
        start(*arguments)  # type: ignore[arg-type]

    async with Machine(vcpus=3) as machine:
        machine.load(guest("1: cmpq $7, 72(%rdi)\n jne 1b\n" + ends(7)))
        with monkeypatch.context() as patch:
            patch.setattr("trio.lowlevel.start_thread_soon", scarce)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await machine.run()
        machine.arguments(7)

        assert await machine.run() == 7
