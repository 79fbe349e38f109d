"""A payload's ELF file, put into guest memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

from ._kvm import lib

if TYPE_CHECKING:
    from pathlib import Path

    from paravirt.transport import Memory

__all__ = ()  # of use to this room only

_EXECUTABLE, _WRITABLE = 1, 2  # PF_X and PF_W (System V ABI, table of p_flags)


class Segment(NamedTuple):
    """What a payload wants in memory."""

    start: int
    end: int
    content: bytes
    """What the file has of it; the rest is zero."""
    executable: bool
    writable: bool

    def image(self) -> bytes:
        """Return all of it."""
        return self.content + bytes(self.end - self.start - len(self.content))


class Program(NamedTuple):
    """A payload that fits into memory."""

    entry: int
    segments: list[Segment]
    """By their addresses; no two overlap."""

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.segments[-1].end

    def put(self, memory: Memory) -> None:
        """Copy the segments to their physical addresses, zeroed where the file has no bytes."""
        for segment in self.segments:
            memory.write(segment.start, segment.image())


def read(elf: Path | bytes, size: int = lib.PV_BLOCK) -> Program:
    """Read a payload for a machine with `size` bytes of memory; as much as there can be.

    Raises ValueError for what is no static x86-64 program, or does not fit; OSError if the file
    cannot be read; RuntimeError without pyelftools.
    """
    name = "the payload" if isinstance(elf, bytes) else str(elf)
    entry, segments = _parse(name, elf if isinstance(elf, bytes) else elf.read_bytes())
    at = int(lib.PV_PAYLOAD)
    for segment in segments:
        start, end = segment.start, segment.end
        if not lib.PV_PAYLOAD <= start <= end <= size or len(segment.content) > end - start:
            room = f"a payload has {lib.PV_PAYLOAD:#x} to {size:#x}"
            raise ValueError(f"{name} wants {start:#x} to {end:#x}; {room}")
        if start < at:
            raise ValueError(f"{name} wants {start:#x} twice: two of its segments overlap")
        at = end
    return Program(entry, segments)


def _parse(name: str, data: bytes) -> tuple[int, list[Segment]]:
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
    segments = sorted(row for row in found if row.end > row.start)
    if not segments:
        raise ValueError(f"{name} has nothing to load")
    return image["e_entry"], segments


def _segment(row: Any) -> Segment:
    content: bytes = row.data()
    if len(content) != row["p_filesz"]:
        raise ValueError("it ends inside of a segment")
    start, flags = row["p_paddr"], row["p_flags"]
    executable, writable = bool(flags & _EXECUTABLE), bool(flags & _WRITABLE)
    return Segment(start, start + row["p_memsz"], content, executable, writable)
