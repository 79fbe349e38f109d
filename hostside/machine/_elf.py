"""A payload's ELF file, put into guest memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

from ._kvm import lib

if TYPE_CHECKING:
    from pathlib import Path

    from paravirt.transport import Memory

__all__ = ()  # of use to this room only


class Loaded(NamedTuple):
    """Where a payload lies."""

    entry: int
    end: int
    """The first byte behind it."""


def load(elf: Path | bytes, memory: Memory, size: int) -> Loaded:
    """Copy the loadable segments to their physical addresses, zeroed where the file has no bytes.

    Raises ValueError for what is no static x86-64 program, or does not fit into `size` bytes of
    memory; OSError if the file cannot be read; RuntimeError without pyelftools.
    """
    name = "the payload" if isinstance(elf, bytes) else str(elf)
    data = elf if isinstance(elf, bytes) else elf.read_bytes()
    entry, segments = _parse(name, data)
    for start, end, content in segments:
        if not lib.PV_PAYLOAD <= start <= end <= size or len(content) > end - start:
            room = f"a payload has {lib.PV_PAYLOAD:#x} to {size:#x}"
            raise ValueError(f"{name} wants {start:#x} to {end:#x}; {room}")
        memory.write(start, content + bytes(end - start - len(content)))
    return Loaded(entry, max(end for _, end, _ in segments))


def _parse(name: str, data: bytes) -> tuple[int, list[tuple[int, int, bytes]]]:
    """Return the entry, and of each segment its place, its end and what the file has of it."""
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
    segments = [row for row in found if row[1] > row[0]]
    if not segments:
        raise ValueError(f"{name} has nothing to load")
    return image["e_entry"], segments


def _segment(row: Any) -> tuple[int, int, bytes]:
    content: bytes = row.data()
    if len(content) != row["p_filesz"]:
        raise ValueError("it ends inside of a segment")
    return row["p_paddr"], row["p_paddr"] + row["p_memsz"], content
