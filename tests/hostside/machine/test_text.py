"""A guest's instructions: measured when it is loaded, compared after each run, read-only if asked.

The shipped payload's linker script keeps text and data on pages of their own.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells.kvm import MmioExit, MmioIoeventfd, PioExit
from paravirt.guestside import payload
from paravirt.hostside.machine import (
    GuestFault,
    GuestStalled,
    Machine,
    SnapshotError,
    TextChanged,
    TextReport,
    measure,
)
from paravirt.hostside.machine._elf import read
from paravirt.hostside.machine._kvm import lib
from paravirt.hostside.machine.text import Slot, Text, divide
from paravirt.transport import Memory, Region
from tests.hostside.machine.guests import assemble, ends
from tests.hostside.machine.playing import echo, echoing, play

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tests.hostside.machine.conftest import Guest

SIZE = 8 << 20
SCRIPT = (resources.files("paravirt.guestside.payload") / "link.ld").read_text()
CLC = 0xF8

REWRITES = f"""
    movb ${CLC:#x}, 1f(%rip)
1:  nop
"""
SAYS = """
    mov $CONSOLE, %edx
    movb $'\\n', (%rdx)
"""
WAITS = "2: cmpq $7, 72(%rdi)\n jne 2b\n"  # for an argument
STORES = """
    movl $7, number(%rip)
    .data
    .byte 0
number:
    .long 5
    .text
"""


@pytest.fixture
def apart(tmp_path: Path) -> Guest:
    """Return a function that makes a payload with text and data on pages of their own."""
    return lambda source: assemble(tmp_path, source, SCRIPT)


@pytest.fixture
def memory() -> Generator[Memory, None, None]:
    memory = Memory([Region.create(SIZE, addr=0)])
    memory.write(lib.PV_STUBS, Text.of(read(payload.path())).extents[0].data)
    read(payload.path()).put(memory)
    yield memory
    memory.close()


def flipped(memory: Memory, address: int) -> TextReport:
    """Change the byte at an address and compare."""
    memory.write(address, bytes([memory.read(address, 1)[0] ^ 1]))
    return Text.of(read(payload.path())).compare(memory, ())


def test_each_changed_page_is_named_with_what_became_of_it(memory: Memory) -> None:
    (text,) = [row for row in read(payload.path()).segments if row.executable]
    first = memory.read(text.start + 5, 3)

    assert not Text.of(read(payload.path())).compare(memory, ()).changed
    assert len(flipped(memory, text.start + 5).changed) == 1
    assert len(flipped(memory, text.start + 7).changed) == 1
    one, other = flipped(memory, text.end - 1).changed

    assert (one.address, one.first) == (text.start, text.start + 5)
    assert one.before == first.hex(" ")
    assert bytes.fromhex(one.after) == bytes([first[0] ^ 1, first[1], first[2] ^ 1])
    assert (other.address, other.first) == ((text.end - 1) // 4096 * 4096, text.end - 1)


def test_what_is_behind_the_text_and_what_is_data_may_change(memory: Memory) -> None:
    segments = read(payload.path()).segments
    data = [row.start for row in segments if not row.executable]
    ends_of_text = [row.end for row in segments if row.executable]

    assert data
    assert not any(flipped(memory, address).changed for address in [*data, *ends_of_text])


def test_ring_0_code_of_the_machine_is_text(memory: Memory) -> None:
    (page,) = flipped(memory, lib.PV_STUBS).changed

    assert page.address == lib.PV_STUBS


def test_digest_is_that_of_the_file_until_something_changes(memory: Memory) -> None:
    text = Text.of(read(payload.path()))
    same = text.compare(memory, ())
    other = flipped(memory, lib.PV_PAYLOAD)

    assert same.measured == same.found == measure(payload.path().read_bytes())
    assert other.measured == same.measured != other.found


def test_slots_make_the_pages_of_the_text_read_only() -> None:
    text = Text.of(read(payload.path()))
    slots = divide(SIZE, text)

    assert divide(SIZE) == [Slot(0, SIZE, False)]
    assert [slot.start for slot in slots] == [0, *(slot.end for slot in slots[:-1])]
    assert slots[-1].end == SIZE
    assert [slot[:2] for slot in slots if slot.readonly] == [(0xA000, 0xB000), (0x200000, 0x205000)]


@pytest.mark.parametrize("align", ["", "ALIGN(64)"], ids=["one segment", "one page"])
def test_text_that_shares_a_page_with_data_is_refused(tmp_path: Path, align: str) -> None:
    script = SCRIPT.replace("ALIGN(0x1000)", align) if align else ""
    elf = assemble(tmp_path, STORES + ends(0), script)

    with pytest.raises(ValueError, match=r"page at 0x200000, .*link without -N"):
        divide(SIZE, Text.of(read(elf)))


async def run(elf: Path, ring: int, *, readonly_text: bool = False) -> TextReport:
    """Run a guest that attests itself to its end."""
    async with Machine(ring=ring, attest=True, readonly_text=readonly_text) as machine:
        machine.load(elf)
        assert await machine.run() == 0
        return machine.attest()


@pytest.mark.kvm
async def test_guest_that_rewrites_itself_is_caught(guest: Guest, ring: int) -> None:
    elf = guest(REWRITES + ends(0))
    with pytest.raises(TextChanged) as caught:
        await run(elf, ring)

    report = caught.value.report
    (page,) = report.changed
    assert report.measured == measure(elf) != report.found
    assert (page.before, page.after) == ("90", f"{CLC:02x}")
    assert f"at {page.first:#x}: {page.before} became {page.after}" in str(caught.value)
    assert "changed in 1 page, with no doorbell attached" in str(caught.value)


@pytest.mark.kvm
async def test_guest_that_rewrites_ring_0_code_is_caught(apart: Guest, ring: int) -> None:
    elf = apart(f"mov ${lib.PV_STUBS:#x}, %eax\n movb $1, (%rax)" + ends(0))
    with pytest.raises(TextChanged, match=f"{lib.PV_STUBS:#x}"):
        await run(elf, ring)
    with pytest.raises(GuestFault, match="read-only text"):
        await run(elf, ring, readonly_text=True)


@pytest.mark.kvm
async def test_without_attestation_it_is_reported_when_asked(guest: Guest) -> None:
    async with Machine() as machine:
        machine.load(guest(REWRITES + ends(3)))

        assert await machine.run() == 3
        assert len(machine.attest().changed) == 1


@pytest.mark.kvm
async def test_store_to_read_only_text_ends_the_run_and_changes_nothing(
    apart: Guest, ring: int
) -> None:
    async with Machine(ring=ring, attest=True, readonly_text=True) as machine:
        machine.load(apart(REWRITES + ends(0)))
        with pytest.raises(GuestFault, match=r"wrote to 0x2000\w\w, in its read-only text") as end:
            await machine.run()

        assert end.value.registers is not None
        assert not machine.attest().changed


@pytest.mark.kvm
@pytest.mark.parametrize("align", ["ALIGN(0x1000)", "ALIGN(64)"], ids=["apart", "beside"])
async def test_data_beside_the_text_may_change(tmp_path: Path, ring: int, align: str) -> None:
    elf = assemble(tmp_path, STORES + ends(0), SCRIPT.replace("ALIGN(0x1000)", align))

    assert not (await run(elf, ring)).changed


@pytest.mark.kvm
async def test_data_beside_read_only_text_may_change(apart: Guest, ring: int) -> None:
    assert not (await run(apart(STORES + ends(0)), ring, readonly_text=True)).changed


@pytest.mark.kvm
async def test_one_segment_cannot_be_read_only(guest: Guest) -> None:
    async with Machine(readonly_text=True) as machine:
        with pytest.raises(ValueError, match="link without -N"):
            machine.load(guest(ends(0)))


@pytest.mark.kvm
async def test_next_payload_has_its_own_read_only_pages(apart: Guest) -> None:
    async with Machine(readonly_text=True) as machine:
        machine.load(payload.path())
        machine.load(apart(STORES + ends(0)))  # its data is where text was

        assert await machine.run() == 0


@pytest.mark.kvm
async def test_payload_leaves_its_text_alone_whether_or_not_it_could(ring: int) -> None:
    async with (
        Machine(ring=ring, attest=True, readonly_text=True) as machine,
        echoing(machine, doorbell=MmioExit),
    ):
        report = await play(machine, echo(40, depth=4))

        assert report.ok, report
        assert machine.attest() == TextReport(
            measured=measure(payload.path()),
            found=measure(payload.path()),
            pages=6,
            changed=(),
            doorbells=("mmio-exit",),
        )


@pytest.mark.kvm
async def test_report_has_each_doorbell_of_the_run_and_none_of_another() -> None:
    kinds = (MmioExit, MmioIoeventfd, PioExit)
    async with Machine(attest=True) as machine, echoing(machine, doorbell=kinds[0]) as link:
        machine.load(payload.path())
        machine.arguments(*echo(0).arguments())
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            for kind in kinds[1:]:
                await link.swap(kind)
            nursery.cancel_scope.cancel()
        first = machine.attest()
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            nursery.cancel_scope.cancel()

        assert first.doorbells == tuple(sorted(kind.name for kind in kinds))
        assert machine.attest().doorbells == ("mmio-exit", "pio-exit")  # of two queues


@pytest.mark.kvm
async def test_change_is_told_instead_of_any_other_end(guest: Guest) -> None:
    async with Machine(attest=True) as machine:
        machine.load(guest(REWRITES + "ud2"))
        with pytest.raises(TextChanged) as caught:
            await machine.run()
        assert isinstance(caught.value.__context__, GuestFault)

        machine.load(guest(WAITS + ends(0)))
        with pytest.raises(GuestStalled):
            await machine.run(stall=0.2)


@pytest.mark.kvm
async def test_cancelled_run_compares_too(apart: Guest) -> None:
    """What a device writes, as the host does here, no read-only page keeps out."""
    caught: list[TextChanged] = []

    async def run(machine: Machine, task_status: trio.TaskStatus[None]) -> None:
        try:
            await machine.run(task_status=task_status)
        except TextChanged as error:
            caught.append(error)

    async with Machine(attest=True, readonly_text=True) as machine:
        machine.load(apart(WAITS + ends(0) + "never: hlt"))
        at = Text.of(read(apart(WAITS + ends(0) + "never: hlt"))).extents[-1].end - 1
        async with trio.open_nursery() as nursery:
            await nursery.start(run, machine)
            machine.memory.write(at, b"\xcc")
            nursery.cancel_scope.cancel()

        (error,) = caught
        assert error.report.changed[0].first == at
        assert isinstance(error.__context__, trio.Cancelled)


@pytest.mark.kvm
async def test_nothing_is_compared_without_a_payload_or_while_it_runs(guest: Guest) -> None:
    async with Machine() as machine:
        with pytest.raises(RuntimeError, match="nothing to compare"):
            machine.attest()
        machine.load(guest(WAITS + ends(0)))
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            with pytest.raises(trio.BusyResourceError):
                machine.attest()
            nursery.cancel_scope.cancel()


@pytest.mark.kvm
@pytest.mark.parametrize("rewrites", [True, False])
async def test_restored_guest_is_held_against_what_was_loaded(
    apart: Guest, ring: int, rewrites: bool
) -> None:
    elf = apart(REWRITES * rewrites + SAYS + WAITS + ends(0))
    async with Machine(ring=ring) as machine:
        machine.load(elf)
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            await machine.console.line()
            nursery.cancel_scope.cancel()
        snapshot = await machine.snapshot()
    async with Machine(ring=ring, attest=True) as machine:
        machine.restore(snapshot)
        machine.arguments(7)
        if rewrites:
            with pytest.raises(TextChanged):
                await machine.run()
        else:
            assert await machine.run() == 0

        report = machine.attest()
        assert report.measured == measure(elf)
        assert [page.before for page in report.changed] == ["90"] * rewrites


@pytest.mark.kvm
async def test_restored_guest_has_read_only_text(apart: Guest, guest: Guest) -> None:
    """What it does after the restore, and not before it, is what counts."""
    source = SAYS + WAITS + REWRITES + ends(0)
    for make in apart, guest:
        async with Machine() as machine:
            machine.load(make(source))
            async with trio.open_nursery() as nursery:
                await nursery.start(machine.run)
                await machine.console.line()
                nursery.cancel_scope.cancel()
            snapshot = await machine.snapshot()
        async with Machine(readonly_text=True) as machine:
            if make is guest:
                with pytest.raises(SnapshotError, match="link without -N"):
                    machine.restore(snapshot)
                continue
            machine.restore(snapshot)
            machine.arguments(7)
            with pytest.raises(GuestFault, match="read-only text"):
                await machine.run()
