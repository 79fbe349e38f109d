"""A bare-metal guest on a real KVM, and a device that refuses it or lies to it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from paravirt.doorbells.kvm import PioIoeventfd
from paravirt.guestside import payload
from paravirt.guestside.payload import PayloadResult, Program, Task
from paravirt.hostside import Block, Device, Request, serve
from paravirt.hostside.machine import Machine, MachineLink
from paravirt.transport import Status
from tests.devices import ByHand
from tests.disks import image
from tests.tools import need_kvm
from tests.vm.payloads import Echo, run_payload

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

pytestmark = pytest.mark.kvm

WAYS = [3, 0]
ECHO = Task(program=Program.ECHO, count=8, depth=2)
PATIENT = Task(program=Program.ECHO, count=8, depth=2, patience=50_000_000)
SLEEPY = Task(program=Program.ECHO, count=8, depth=2, interrupt=True)


@pytest.fixture(autouse=True)
def kvm() -> None:
    need_kvm()


class Guest(NamedTuple):
    """A guest that waits for an answer."""

    machine: Machine
    link: MachineLink
    end: trio.MemoryReceiveChannel[int]

    async def ended(self) -> tuple[int, str]:
        """Wait for its end; returns the code and the reason."""
        code = await self.end.receive()
        return code, payload.parse(self.machine.console.read()).reason


class Wrong(Echo):
    """Answers with one bit turned over."""

    def handle(self, request: Request) -> None:
        data = bytearray(request.read())
        data[-1] ^= 1
        request.reply(data)


class Short(Echo):
    """Answers with less than it got."""

    def handle(self, request: Request) -> None:
        request.reply(request.read()[:-1])


class Silent(Device):
    """Takes requests and never answers."""

    device_id = 42
    queue_sizes = (16,)

    async def handle(self, request: Request) -> None:
        del request
        await trio.sleep_forever()


ALL_BITS = 0xFFFFFFFF
# What is wrong, in which register, which bits of the truth stay, and which are added.
REGISTERS = [
    ("no-device", 0x000, 0, 0),
    ("version", 0x004, 0, 1),
    ("device-type", 0x008, 0, 0),
    ("legacy-only", 0x010, 0, 0),
    ("no-queue", 0x034, 0, 0),
    ("queue-in-use", 0x044, 0, 1),
    ("queue-refused", 0x044, 0, 0),
    ("features-refused", 0x070, ALL_BITS & ~Status.FEATURES_OK, 0),
]


@pytest.mark.parametrize("ring", WAYS)
@pytest.mark.parametrize(
    ("reason", "register", "kept", "added"), REGISTERS, ids=[row[0] for row in REGISTERS]
)
async def test_register_that_lies_ends_the_negotiation(
    reason: str,
    register: int,
    kept: int,
    added: int,
    ring: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """3.1.1, 4.2.2, 4.2.3.2: what the driver reads over real exits is not what it must be."""
    truth = MachineLink.access

    def access(link: MachineLink, offset: int, width: int, value: int | None) -> int:
        answer = truth(link, offset, width, value)
        lied = offset == register and value is None
        return answer & kept | added if lied else answer

    monkeypatch.setattr(MachineLink, "access", access)

    ended = await run_payload(Echo(), ECHO, doorbell=PioIoeventfd, ring=ring)

    assert (ended.code, ended.report.reason) == (PayloadResult.REFUSED, reason)


@pytest.mark.parametrize("ring", WAYS)
async def test_device_of_another_type_is_refused(ring: int) -> None:
    task = Task(program=Program.BLOCK, count=1)

    ended = await run_payload(Echo(), task, doorbell=PioIoeventfd, ring=ring)

    assert (ended.code, ended.report.reason) == (PayloadResult.REFUSED, "device-type")
    assert ended.report.detail == Echo.device_id


async def test_queue_that_is_not_there_is_refused() -> None:
    """4.2.2: QueueSizeMax is 0 for a queue that is not available."""
    task = Task(program=Program.ECHO, count=1, queues=3)

    ended = await run_payload(Echo(queues=2), task, doorbell=PioIoeventfd)

    assert (ended.code, ended.report.reason) == (PayloadResult.REFUSED, "no-queue")
    assert ended.report.detail == 2


async def test_read_only_disk_is_not_written(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", 1 << 16)

    with Block(path, read_only=True) as disk:
        task = Task(program=Program.BLOCK, count=4)
        ended = await run_payload(disk, task, doorbell=PioIoeventfd)

    assert (ended.code, ended.report.reason) == (PayloadResult.REFUSED, "read-only")
    assert path.read_bytes() == bytes(1 << 16)


@pytest.mark.parametrize("ring", WAYS)
@pytest.mark.parametrize(
    ("device", "reason"), [(Wrong, "wrong-data"), (Short, "wrong-length")], ids=["wrong", "short"]
)
async def test_wrong_answer_is_found_out(device: type[Echo], reason: str, ring: int) -> None:
    ended = await run_payload(device(), ECHO, doorbell=PioIoeventfd, ring=ring)

    assert (ended.code, ended.report.reason) == (PayloadResult.WRONG, reason)


async def test_silent_device_is_given_up_after_the_guests_patience() -> None:
    ended = await run_payload(Silent(), PATIENT, doorbell=PioIoeventfd)

    assert (ended.code, ended.report.reason) == (PayloadResult.SILENT, "silent")


def used_index(machine: Machine, link: MachineLink) -> None:
    """Say that more was used than was ever offered (2.7.8)."""
    ring = machine.memory.view(link.state.device.queues[0].device, 4)[0].cast("H")
    ring[1] = (ring[1] + 1000) & 0xFFFF


def used_id(machine: Machine, link: MachineLink) -> None:
    """Give back a chain that is none (2.7.8.2)."""
    ring = machine.memory.view(link.state.device.queues[0].device, 12)[0].cast("I")
    ring[1] = 60000
    ring.cast("B").cast("H")[1] = 1


@asynccontextmanager
async def asked(task: Task, ring: int) -> AsyncGenerator[Guest]:
    """Run a task up to its first request, which nobody answers."""
    device = ByHand(16)
    sender, receiver = trio.open_memory_channel[int](1)

    async def run(machine: Machine) -> None:
        await sender.send(await machine.run())

    async with Machine(ring=ring) as machine, trio.open_nursery() as nursery:
        link = machine.plug(device, doorbell=PioIoeventfd)
        machine.load(payload.path())
        machine.arguments(*task.arguments())
        await nursery.start(serve, device, link)
        nursery.start_soon(run, machine)
        await device.next()
        yield Guest(machine, link, receiver)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("ring", WAYS)
@pytest.mark.parametrize("task", [ECHO, SLEEPY], ids=["polling", "sleeping"])
@pytest.mark.parametrize(("lie", "reason"), [(used_index, "used-index"), (used_id, "used-id")])
async def test_lie_in_the_ring_ends_the_guest_with_its_name(
    lie: Callable[[Machine, MachineLink], None], reason: str, task: Task, ring: int
) -> None:
    """The device's side writes the ring behind its own back, then calls."""
    async with asked(task, ring) as guest:
        lie(guest.machine, guest.link)
        guest.link.calls[0].ring()

        assert await guest.ended() == (PayloadResult.BROKEN, reason)


@pytest.mark.parametrize("ring", WAYS)
@pytest.mark.parametrize("task", [PATIENT, SLEEPY], ids=["polling", "sleeping"])
async def test_device_that_needs_a_reset_ends_the_guest(task: Task, ring: int) -> None:
    """2.1.2: DEVICE_NEEDS_RESET comes with a configuration change notification."""
    async with asked(task, ring) as guest:
        guest.link.need_reset()

        assert await guest.ended() == (PayloadResult.SILENT, "needs-reset")
