"""The guest's memory before its first instruction: tables, ring-0 code, the payload's stacks.

Where each thing lies is in `core/layout.h`. The formats are the CPU's: Intel's SDM volume 3, 3.4.5
(segments), 4.5 (pages), 6.14 (64-bit interrupts), 8.7 (task state), 18.5.2 (I/O bitmap).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ._kvm import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from paravirt.transport import Memory

__all__ = ()  # of use to this room only

LARGE_PAGE: Final = 2 << 20
_GIB: Final = 1 << 30
_PRESENT, _WRITABLE, _USER, _LARGE = 1, 2, 4, 0x80

# Flat segments: base 0, limit all; only what 64-bit mode looks at matters.
_CODE_0, _DATA_0 = 0x00AF9B000000FFFF, 0x00CF93000000FFFF
_CODE_3, _DATA_3 = 0x00AFFB000000FFFF, 0x00CFF3000000FFFF
_BUSY_TASK: Final = 0x8B
_TSS_HEAD: Final = 104
_BITMAP: Final = 65536 // 8
"""A zero bit permits a port. IOPL alone does not permit OUT on every host."""
_INTERRUPT_GATE: Final = 0x8E
_DOUBLE_FAULT: Final = 8
GDT_LIMIT: Final = lib.PV_TASK + 16 * lib.PV_VCPUS - 1
IDT_LIMIT: Final = 256 * 16 - 1
TSS_LIMIT: Final = _TSS_HEAD + _BITMAP  # and a byte of ones, which the CPU may read too


def prepare(memory: Memory, size: int) -> None:
    """Write all that the machine has in guest memory of `size` bytes, except the boot page."""
    memory.write(lib.PV_GDT, _gdt())
    memory.write(lib.PV_PAGE_TABLES, _page_tables(size))
    memory.write(lib.PV_STUBS, ffi.buffer(lib.pv_stub_code(), lib.pv_stub_size()))
    memory.write(lib.PV_IDT, _idt())
    for vcpu in range(lib.PV_VCPUS):
        memory.write(task_state(vcpu), _tss(vcpu))


def task_state(vcpu: int) -> int:
    """Return where the task state segment of a vCPU lies."""
    address: int = lib.PV_TSS + vcpu * lib.PV_TSS_STRIDE
    return address


def stack(vcpu: int) -> int:
    """Return the end of the payload's stack on a vCPU."""
    end: int = lib.PV_STACK + (vcpu + 1) * lib.PV_STACK_SIZE
    return end


def _gdt() -> bytes:
    rows = [0, _CODE_0, _DATA_0, _CODE_3, _DATA_3]
    for vcpu in range(lib.PV_VCPUS):
        base, limit = task_state(vcpu), TSS_LIMIT
        low = limit & 0xFFFF | (base & 0xFFFFFF) << 16 | _BUSY_TASK << 40 | (base >> 24) << 56
        rows += [low, 0]
    return struct.pack(f"<{len(rows)}Q", *rows)


def _tss(vcpu: int) -> bytes:
    top = lib.PV_KERNEL_STACK + (vcpu + 1) * lib.PV_KERNEL_STACK_SIZE
    middle = top - lib.PV_KERNEL_STACK_SIZE // 2
    head = bytearray(_TSS_HEAD)
    struct.pack_into("<Q", head, 4, top)  # rsp0
    struct.pack_into("<Q", head, 36, middle)  # IST 1
    struct.pack_into("<H", head, 102, _TSS_HEAD)
    return bytes(head) + bytes(_BITMAP) + b"\xff"


def _page_tables(size: int) -> bytes:
    """Map all memory and the devices for the payload, in whichever ring it is; nothing else."""
    table = lib.PV_PAGE_TABLES
    above = _PRESENT | _WRITABLE | _USER
    top = [table + 0x1000 | above] + [0] * 511
    middle = [table + 0x2000 + 0x1000 * n | above for n in range(4)] + [0] * 508
    pages = [0] * (4 * _GIB // LARGE_PAGE)
    for address in _mapped(size):
        pages[address // LARGE_PAGE] = address | _LARGE | _PRESENT | _WRITABLE | _USER
    apic = lib.PV_LOCAL_APIC
    pages[apic // LARGE_PAGE] = apic // LARGE_PAGE * LARGE_PAGE | _LARGE | _PRESENT | _WRITABLE
    rows = [*top, *middle, *pages]
    return struct.pack(f"<{len(rows)}Q", *rows)


def _mapped(size: int) -> Iterator[int]:
    yield from range(0, size, LARGE_PAGE)
    yield from range(lib.PV_BLOCK, lib.PV_DEVICES_END, LARGE_PAGE)


def _idt() -> bytes:
    """Send faults to the machine, and all else to the interrupt handler."""
    rows: list[bytes] = []
    for vector in range(256):
        if vector < 32:
            ist = vector == _DOUBLE_FAULT
            rows.append(_gate(lib.pv_stub_fault_address(vector), _INTERRUPT_GATE, ist))
        else:
            rows.append(_gate(lib.pv_stub_interrupt_address(), _INTERRUPT_GATE))
    return b"".join(rows)


def _gate(address: int, kind: int, ist: int = 0) -> bytes:
    low, high = address & 0xFFFF, address >> 16 & 0xFFFF
    return struct.pack("<HHBBHII", low, lib.PV_CODE_0, ist, kind, high, address >> 32, 0)
