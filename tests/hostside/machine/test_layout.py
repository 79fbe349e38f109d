"""Where things are in guest memory: the C header, its users, and the boot page of the doorbells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from paravirt.hostside.machine import _layout
from paravirt.hostside.machine._kvm import ffi, lib
from paravirt.transport import Memory, Region
from tests.tools import need

ROOT = Path(__file__).parents[3]
SIZE = 8 << 20
SAME = """
#include <stddef.h>
#include "hostside/machine/core/layout.h"
#include "doorbells/guest/doorbell.h"
_Static_assert(offsetof(struct pv_boot_page, interrupts) == PV_BOOT_INTERRUPTS, "interrupts");
_Static_assert(offsetof(struct pv_boot_page, undefined_handler) == PV_BOOT_UNDEFINED, "undefined");
"""


def test_ring_0_code_and_boot_page_agree(tmp_path: Path) -> None:
    source = tmp_path / "same.c"
    source.write_text(SAME)
    command = (need("gcc", "gcc"), "-std=c11", "-fsyntax-only", f"-I{ROOT}", str(source))
    subprocess.run(command, check=True)


def test_parts_of_the_machine_do_not_overlap() -> None:
    page = 4096
    parts = {
        "GDT": (lib.PV_GDT, _layout.GDT_LIMIT + 1),
        "page tables": (lib.PV_PAGE_TABLES, 6 * page),
        "boot page": (lib.PV_BOOT, page),
        "IDT": (lib.PV_IDT, _layout.IDT_LIMIT + 1),
        "ring-0 code": (lib.PV_STUBS, lib.PV_STUBS_SIZE),
        "task states": (lib.PV_TSS, lib.PV_VCPUS * lib.PV_TSS_STRIDE),
        "ring-0 stacks": (lib.PV_KERNEL_STACK, lib.PV_VCPUS * lib.PV_KERNEL_STACK_SIZE),
        "stacks": (lib.PV_STACK, lib.PV_VCPUS * lib.PV_STACK_SIZE),
        "payload": (lib.PV_PAYLOAD, page),
    }
    ends = 0
    for name, (start, size) in parts.items():
        assert start >= ends, name
        ends = start + size


def test_windows_of_the_devices_do_not_overlap() -> None:
    windows = lib.PV_DEVICES * lib.PV_WINDOW

    assert lib.PV_BLOCK + windows <= lib.PV_BELL_PAGE
    assert lib.PV_BELL_PAGE + windows <= lib.PV_CONSOLE < lib.PV_DEVICES_END
    assert lib.PV_BELL_PORT + 0x100 * lib.PV_DEVICES <= 0x10000
    assert lib.PV_SHARED_PORT + 4 * lib.PV_DEVICES <= lib.PV_BELL_PORT


def test_ring_0_code_fits_into_its_page_and_each_fault_has_an_entry() -> None:
    entries = [lib.pv_stub_fault_address(vector) for vector in range(32)]

    assert lib.pv_stub_size() <= lib.PV_STUBS_SIZE
    assert all(lib.PV_STUBS <= entry < lib.PV_STUBS + lib.pv_stub_size() for entry in entries)
    assert len(set(entries)) == 32


@pytest.mark.parametrize("vector", range(32))
def test_entry_of_a_fault_pushes_its_vector(vector: int) -> None:
    """PUSH of a byte is 6a; a fault without an error code gets a 0 first (SDM 3, 6.15)."""
    with_code = vector in (8, 10, 11, 12, 13, 14, 17, 21, 29, 30)
    start = lib.pv_stub_fault_address(vector) - lib.PV_STUBS
    code = bytes(ffi.buffer(lib.pv_stub_code() + start, 4))
    pushed = bytes([0x6A, vector]) if with_code else bytes([0x6A, 0, 0x6A, vector])

    assert code.startswith(pushed)


def test_pages_that_are_no_memory_are_not_mapped() -> None:
    memory = Memory([Region.create(SIZE, addr=0)])
    _layout.prepare(memory, SIZE)
    table = memory.view(lib.PV_PAGE_TABLES + 0x2000, 4 * 4096)[0].cast("Q")
    mapped = {index * _layout.LARGE_PAGE for index, entry in enumerate(table) if entry & 1}

    devices = range(lib.PV_BLOCK, lib.PV_DEVICES_END, _layout.LARGE_PAGE)
    apic = lib.PV_LOCAL_APIC // _layout.LARGE_PAGE * _layout.LARGE_PAGE
    assert mapped == {*range(0, SIZE, _layout.LARGE_PAGE), *devices, apic}
    table.release()
    memory.close()
