"""What a guest is told of its CPU, and how two such accounts differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ()  # of use to this room only

_ALL: Final = 0xFFFFFFFF
_OWN: Final = {
    (0x1, "ebx"): 0x00FFFFFF,
    (0xB, "edx"): 0,
    (0x1F, "edx"): 0,
    (0x8000001E, "eax"): 0,
    (0x8000001E, "ebx"): 0xFFFFFF00,
    (0x8000001E, "ecx"): 0xFFFFFF00,
}
"""Bits to compare where the rest numbers the very core that was asked, which is another each time:
its APIC's, core's or node's (Intel SDM volume 2, CPUID; AMD APM volume 3, E.4)."""
_MAKERS: Final = (0, 0x80000000)
_REGISTERS: Final = ("eax", "ebx", "ecx", "edx")
_TOLD: Final = 6
"""Differences that are named: a CPU of another kind has dozens."""


class CpuidLeaf(msgspec.Struct, frozen=True):
    """One row of CPUID."""

    function: int
    index: int
    eax: int
    ebx: int
    ecx: int
    edx: int

    @property
    def names_maker(self) -> bool:
        """Whether EBX, EDX and ECX are twelve letters that say who made the CPU."""
        return self.function in _MAKERS


def tell_apart(
    theirs: Sequence[CpuidLeaf], ours: Sequence[CpuidLeaf], *, makers: bool = True
) -> str:
    """Say in which registers of which leaves two CPUs differ; "" if in none.

    Without `makers` it does not matter whose CPU either is.
    """
    there, here = _values(theirs, makers=makers), _values(ours, makers=makers)
    rows = [
        f"leaf {function:#x}.{index} {name} {_told(there, place)}, here {_told(here, place)}"
        for place in sorted(there.keys() | here.keys())
        if there.get(place) != here.get(place)
        for function, index, name in (place,)
    ]
    more = [f"{len(rows) - _TOLD} more"] if len(rows) > _TOLD else []
    return "; ".join(rows[:_TOLD] + more)


def _values(rows: Sequence[CpuidLeaf], *, makers: bool) -> dict[tuple[int, int, str], int]:
    return {
        (row.function, row.index, name): getattr(row, name) & _OWN.get((row.function, name), _ALL)
        for row in rows
        for name in _REGISTERS
        if makers or name == "eax" or not row.names_maker
    }


def _told(values: dict[tuple[int, int, str], int], place: tuple[int, int, str]) -> str:
    return f"{values[place]:#x}" if place in values else "absent"
