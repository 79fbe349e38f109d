"""A payload's ELF file, put into guest memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ._kvm import lib

if TYPE_CHECKING:
    from pathlib import Path

    from paravirt.transport import Memory

__all__ = ()  # of use to this room only

_EXECUTABLE: Final = 1  # PF_X (System V ABI, table of p_flags)


class Loaded(NamedTuple):
    """Where a payload lies."""

    entry: int
    end: int
    """The first byte behind it."""


class Segment(NamedTuple):
    """What a payload wants in memory."""

    start: int
    end: int
    content: bytes
    """What the file has of it; the rest is zero."""
    executable: bool


def load(elf: Path | bytes, memory: Memory, size: int) -> Loaded:
    """Copy the loadable segments to their physical addresses, zeroed where the file has no bytes.

    Raises ValueError for what is no static x86-64 program, or does not fit into `size` bytes of
    memory; OSError if the file cannot be read; RuntimeError without pyelftools.
    """
    name = _name(elf)
    entry, segments = read(elf)
    for start, end, content, _ in segments:
        if not lib.PV_PAYLOAD <= start <= end <= size or len(content) > end - start:
            room = f"a payload has {lib.PV_PAYLOAD:#x} to {size:#x}"
            raise ValueError(f"{name} wants {start:#x} to {end:#x}; {room}")
        memory.write(start, content + bytes(end - start - len(content)))
    return Loaded(entry, max(segment.end for segment in segments))


def read(elf: Path | bytes) -> tuple[int, list[Segment]]:
    """Return the entry and the loadable segments.

    Raises ValueError for what is no static x86-64 program; OSError if the file cannot be read;
    RuntimeError without pyelftools.
    """
    name = _name(elf)
    data = elf if isinstance(elf, bytes) else elf.read_bytes()
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        raise RuntimeError("payloads are read by pyelftools: pip install 'paravirt[kvm]'") from None
    try:
        image: Any = ELFFile(io.BytesIO(data))
        kind = (image["e_ident"]["EI_CLASS"], image["e_machine"], image["e_type"])
        found = [_segment(row) for row in image.iter_segments() if row["p_type"] == "PT_LOAD"]
    except (ELFError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"{name} is no whole ELF file: {error}") from None
    if kind != ("ELFCLASS64", "EM_X86_64", "ET_EXEC"):
        raise ValueError(f"{name} is no static program for x86-64, linked at its place: {kind}")
    segments = [row for row in found if row.end > row.start]
    if not segments:
        raise ValueError(f"{name} has nothing to load")
    return image["e_entry"], segments


def _name(elf: Path | bytes) -> str:
    return "the payload" if isinstance(elf, bytes) else str(elf)


def _segment(row: Any) -> Segment:
    content: bytes = row.data()
    if len(content) != row["p_filesz"]:
        raise ValueError("it ends inside of a segment")
    executable = bool(row["p_flags"] & _EXECUTABLE)
    return Segment(row["p_paddr"], row["p_paddr"] + row["p_memsz"], content, executable)
