"""Boot a payload with one device, and see it to its end."""

from __future__ import annotations

import signal
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import click
import msgspec
import trio

from paravirt.doorbells import Adaptive, EventFd, Polling
from paravirt.doorbells.kvm import GUEST_KINDS, DoorbellRefused
from paravirt.hostside import Block, Device, ImageError, Request, serve
from paravirt.hostside.machine import KvmUnavailable, Machine, MachineError

from .._errors import BadInput, CommandError, Interrupted

if TYPE_CHECKING:
    from pathlib import Path

    from paravirt.doorbells import Doorbell
    from paravirt.hostside.machine import MachineLink

ENDS: Final = (signal.SIGINT, signal.SIGTERM)
KINDS: Final[tuple[type[Doorbell], ...]] = (*GUEST_KINDS, EventFd, Polling, Adaptive)
DOORBELLS: Final = {kind.name: kind for kind in KINDS}


class Setup(msgspec.Struct, frozen=True):
    """What to boot, and with what."""

    elf: Path
    doorbell: type[Doorbell]
    disk: Path | None
    ring: int
    memory_size: int
    vcpus: int
    arguments: tuple[str, ...]
    stall: float | None
    attest: bool
    readonly_text: bool


class Document(msgspec.Struct, frozen=True):
    """What `run --json` prints."""

    code: int
    doorbell: str
    ring: int
    console: list[str]
    exits: int
    kicks: int
    """Those that left the kernel."""
    stray: int
    refused: dict[str, int]


class Echo(Device):
    """Sends every request back."""

    device_id = 42
    queue_sizes = (256,)

    def handle(self, request: Request) -> None:
        """Answer at once."""
        request.reply(request.read())


class Lines:
    """The guest's console: kept, and unless `quiet` shown line by line."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self.lines: list[str] = []

    async def follow(self, machine: Machine) -> None:
        """Take lines until the guest ends."""
        with suppress(trio.EndOfChannel):  # said by a console whose guest has ended
            while True:
                self.add(await machine.console.line())

    def add(self, line: str) -> None:
        """Take one line."""
        self.lines.append(line)
        if not self._quiet:
            click.echo(line)


def boot(setup: Setup, *, quiet: bool) -> Document:
    """Boot it and wait for its end.

    Raises BadInput for what cannot be booted here, CommandError for a guest that failed,
    Interrupted for a signal.
    """
    with ExitStack() as stack:
        try:
            numbers = [_number(text) for text in setup.arguments]
            device = stack.enter_context(Block(setup.disk)) if setup.disk else Echo()
            return trio.run(partial(_boot, setup, device, numbers, Lines(quiet=quiet)))
        except DoorbellRefused as error:
            raise BadInput(f"no {setup.doorbell.name} here: {error}") from None
        except KvmUnavailable as error:
            raise BadInput(str(error)) from None
        except OSError as error:
            raise BadInput(f"{error.filename or setup.elf}: {error.strerror or error}") from None
        except (ValueError, RuntimeError, ImageError) as error:
            raise BadInput(str(error)) from None


def _number(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise BadInput(f"an argument is a number of 64 bits, such as 3 or 0x10, not {text!r}")
    return value


async def _boot(setup: Setup, device: Device, numbers: list[int], lines: Lines) -> Document:
    async with Machine(
        memory_size=setup.memory_size,
        vcpus=setup.vcpus,
        ring=setup.ring,
        attest=setup.attest,
        readonly_text=setup.readonly_text,
    ) as machine:
        link = machine.plug(device, doorbell=setup.doorbell)
        machine.load(setup.elf)
        machine.arguments(*numbers)
        ends: list[int | CommandError] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(_listen, nursery, ends)
            await nursery.start(serve, device, link)
            nursery.start_soon(lines.follow, machine)
            nursery.start_soon(_run, machine, setup.stall, ends, nursery)
        for line in machine.console.read().splitlines():
            lines.add(line)
        end = ends[0]
        if isinstance(end, CommandError):
            raise end
        return _document(setup, end, lines, machine, link)


async def _run(
    machine: Machine, stall: float | None, ends: list[int | CommandError], nursery: trio.Nursery
) -> None:
    try:
        ends.append(await machine.run(stall=stall))
    except MachineError as error:
        ends.append(CommandError(str(error), 1))
    nursery.cancel_scope.cancel()


async def _listen(
    nursery: trio.Nursery,
    ends: list[int | CommandError],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(*ENDS) as signals:
        task_status.started()
        async for number in signals:
            ends.append(Interrupted(number))
            nursery.cancel_scope.cancel()


def _document(
    setup: Setup, code: int, lines: Lines, machine: Machine, link: MachineLink
) -> Document:
    counts = machine.statistics()
    return Document(
        code=code,
        doorbell=setup.doorbell.name,
        ring=setup.ring,
        console=lines.lines,
        exits=counts.exits,
        kicks=counts.kicks,
        stray=counts.stray,
        refused=link.refused,
    )
