"""A vCPU's state, by KVM's ioctls (Documentation/virt/kvm/api.rst, 4.x: each is named there)."""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import TYPE_CHECKING, Final

from ._document import SnapshotError, VcpuRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("check_processor", "put_processor", "take_processor")

_READ, _WRITE, _KVM = 2 << 30, 1 << 30, 0xAE << 8  # <asm-generic/ioctl.h>, <linux/kvm.h>

# Name, numbers to get and to set, bytes of the structure. In the order in which they are put back:
# the mode before the registers in it, the interrupt controller behind the switch that enables it.
_PARTS: Final = (
    ("sregs", 0x83, 0x84, 312),
    ("regs", 0x81, 0x82, 144),
    ("xcrs", 0xA6, 0xA7, 392),
    ("xsave", 0xA4, 0xA5, 4096),
    ("lapic", 0x8E, 0x8F, 1024),
    ("debugregs", 0xA1, 0xA2, 128),
    ("events", 0x9F, 0xA0, 64),
    ("mp_state", 0x98, 0x99, 4),
)
_NEEDED: Final = ("sregs", "regs", "lapic", "mp_state")
_ABSENT: Final = (errno.EINVAL, errno.ENOTTY, errno.ENXIO)
"""What KVM answers where the CPU has no such state."""

_GET_MSRS: Final = _READ | _WRITE | 8 << 16 | _KVM | 0x88
_SET_MSRS: Final = _WRITE | 8 << 16 | _KVM | 0x89
_MSR_LIST: Final = _READ | _WRITE | 4 << 16 | _KVM | 0x02
_ENTRY: Final = struct.Struct("<IIIIQ")  # struct kvm_msrs of one: nmsrs, pad; index, -, data
_LIST_ROOM: Final = 1024
"""KVM lists some 200 registers."""


def take_processor(fd: int, kvm_fd: int) -> VcpuRecord:
    """Read the state of a vCPU that does not run."""
    parts: dict[str, bytes] = {}
    for name, get, _, size in _PARTS:
        data = bytearray(size)
        try:
            fcntl.ioctl(fd, _READ | size << 16 | _KVM | get, data, True)
        except OSError as error:
            if name in _NEEDED or error.errno not in _ABSENT:
                raise
        else:
            parts[name] = bytes(data)
    read = ((index, _read(fd, index)) for index in _listed(kvm_fd))
    return VcpuRecord(parts, {index: value for index, value in read if value is not None})


def check_processor(record: VcpuRecord) -> None:
    """Raise SnapshotError for a record that lacks a part, or has one of another size."""
    sizes = {name: size for name, _, _, size in _PARTS}
    for name, data in record.parts.items():
        if len(data) != sizes.get(name):
            raise SnapshotError(f"a vCPU has {len(data)} bytes of {name!r}")
    if missing := [name for name in _NEEDED if name not in record.parts]:
        raise SnapshotError(f"a vCPU lacks {', '.join(missing)}")
    if not all(0 <= i < 1 << 32 and 0 <= v < 1 << 64 for i, v in record.msrs.items()):
        raise SnapshotError("a vCPU has a register of more than 64 bits")


def put_processor(fd: int, record: VcpuRecord, *, other_cpu: bool = False) -> None:
    """Put the state back. What the CPU is not able to hold is an error, but for `other_cpu`.

    A model-specific register that this CPU lacks matters only if it was not 0. Raises SnapshotError
    naming what KVM refuses.
    """
    check_processor(record)
    for name, _, put, size in _PARTS:
        if name == "lapic":
            refused = _write_all(fd, record.msrs.items())
            if refused and not other_cpu:
                names = ", ".join(f"{index:#x}" for index in refused)
                raise SnapshotError(f"this CPU does not take the registers {names}")
        if name in record.parts:
            try:
                data = bytearray(record.parts[name])
                fcntl.ioctl(fd, _WRITE | size << 16 | _KVM | put, data, True)
            except OSError as error:
                raise SnapshotError(f"KVM refuses {name} of a vCPU: {error.strerror}") from error


def _listed(kvm_fd: int) -> tuple[int, ...]:
    room = bytearray(4 + 4 * _LIST_ROOM)
    struct.pack_into("<I", room, 0, _LIST_ROOM)
    fcntl.ioctl(kvm_fd, _MSR_LIST, room, True)
    count: int = struct.unpack_from("<I", room)[0]
    return struct.unpack_from(f"<{count}I", room, 4)


def _read(fd: int, index: int) -> int | None:
    row = bytearray(_ENTRY.pack(1, 0, index, 0, 0))
    if not _try(fd, _GET_MSRS, row):
        return None
    value: int = _ENTRY.unpack(row)[4]
    return value


def _write_all(fd: int, rows: Iterable[tuple[int, int]]) -> list[int]:
    """Write registers; returns those that keep another value than they should have."""
    return [
        index
        for index, value in rows
        if not _try(fd, _SET_MSRS, bytearray(_ENTRY.pack(1, 0, index, 0, value)))
        and value != (_read(fd, index) or 0)
    ]


def _try(fd: int, request: int, row: bytearray) -> bool:
    try:
        done: int = fcntl.ioctl(fd, request, row, True)
    except OSError:
        return False
    return done == 1
