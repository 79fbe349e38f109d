"""A guest that loads and stores what a test tells it to, by real exits."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from paravirt.hostside.machine._kvm import lib
from paravirt.transport.mmio import Register
from tests.hostside.machine.guests import build_c

if TYPE_CHECKING:
    from paravirt.hostside.machine import Machine

_SOURCE: Final = Path(__file__).with_name("scripted.c")
_ROW: Final = struct.Struct("<IHHQ")
_ROWS: Final = 0x300000  # in memory, where the guest finds them
RING: Final = 0x400000
"""Where `queue_rows` puts a queue, for who has no better place."""
SIZE: Final = 16
"""Of that queue."""
_ALL_BUT_DRIVER_OK: Final = 11


class Row(NamedTuple):
    """One access to the register block of the first device; a load if there is no value."""

    offset: int
    value: int | None = None
    width: int = 4


async def play_rows(machine: Machine, folder: Path, *rows: Row) -> list[int]:
    """Have the guest do all of it, and return what its loads gave."""
    machine.load(build_c(folder, _SOURCE))
    packed = [
        _ROW.pack(lib.PV_BLOCK + row.offset, row.width, row.value is not None, row.value or 0)
        for row in rows
    ]
    machine.memory.write(_ROWS, b"".join(packed) + bytes(_ROW.size))
    machine.arguments(_ROWS)
    assert await machine.run() == 0
    after = _ROW.iter_unpack(machine.memory.read(_ROWS, len(packed) * _ROW.size))
    return [found[-1] for row, found in zip(rows, after, strict=True) if row.value is None]


def negotiation() -> tuple[Row, ...]:
    """Return how a driver of no optional feature begins with a device that is at rest."""
    return (
        *(Row(Register.STATUS, value) for value in (1, 3)),
        Row(Register.DRIVER_FEATURES_SEL, 1),
        Row(Register.DRIVER_FEATURES, 1),  # VERSION_1
        Row(Register.DRIVER_FEATURES_SEL, 0),
        Row(Register.DRIVER_FEATURES, 0),
        Row(Register.STATUS, _ALL_BUT_DRIVER_OK),
    )


def queue_rows(
    desc: int = RING, driver: int = RING + 0x1000, device: int = RING + 0x2000, size: int = SIZE
) -> tuple[Row, ...]:
    """Return how it says where queue 0 lies, all but that it is ready."""
    places = (
        (Register.QUEUE_DESC_LOW, desc),
        (Register.QUEUE_DRIVER_LOW, driver),
        (Register.QUEUE_DEVICE_LOW, device),
    )
    return (
        Row(Register.QUEUE_SEL, 0),
        Row(Register.QUEUE_SIZE, size),
        *(
            Row(low + 4 * half, at >> 32 * half & 0xFFFFFFFF)
            for low, at in places
            for half in (0, 1)
        ),
    )


READY: Final = (Row(Register.QUEUE_READY, 1), Row(Register.QUEUE_READY))
"""The last word, and whether the device took it."""
