"""A guest's memory in slots of KVM's, those of the text read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ._text import PAGE

if TYPE_CHECKING:
    from ._text import Text

__all__ = ("Slot", "divide")


class Slot(NamedTuple):
    """A range of guest memory, in whole pages."""

    start: int
    end: int
    readonly: bool


def divide(size: int, text: Text | None = None) -> list[Slot]:
    """Divide `size` bytes into slots, with the pages of a text read-only.

    Raises ValueError for a text that shares a page with what may be written.
    """
    slots: list[Slot] = []
    start = 0
    if text is not None and text.shared:
        raise ValueError(
            f"text and data share the page at {text.shared:#x}, so it cannot be read-only: link"
            " without -N, and in a linker script begin the data with `. = ALIGN(0x1000);`"
        )
    for extent in text.extents if text is not None else ():
        first, last = extent.address // PAGE * PAGE, -(-extent.end // PAGE) * PAGE
        slots += [Slot(start, first, False), Slot(max(start, first), last, True)]
        start = last
    slots.append(Slot(start, size, False))
    return [slot for slot in slots if slot.start < slot.end]
