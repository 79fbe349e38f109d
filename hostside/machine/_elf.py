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
    image = _parse(name, data)
    segments = [s for s in image.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_memsz"]]
    if not segments:
        raise ValueError(f"{name} has nothing to load")
    for segment in segments:
        start, end = _place(name, segment, size)
        content: bytes = segment.data()
        memory.write(start, content + bytes(end - start - len(content)))
    return Loaded(image["e_entry"], max(_place(name, s, size)[1] for s in segments))


def _place(name: str, segment: Any, size: int) -> tuple[int, int]:
    start: int = segment["p_paddr"]
    end: int = start + segment["p_memsz"]
    if not lib.PV_PAYLOAD <= start <= end <= size or segment["p_filesz"] > segment["p_memsz"]:
        raise ValueError(
            f"{name} wants {start:#x} to {end:#x}; a payload has {lib.PV_PAYLOAD:#x} to {size:#x}"
        )
    return start, end


def _parse(name: str, data: bytes) -> Any:
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        raise RuntimeError("payloads are read by pyelftools: pip install 'paravirt[kvm]'") from None
    try:
        image: Any = ELFFile(io.BytesIO(data))
    except (ELFError, ValueError, KeyError) as error:
        raise ValueError(f"{name} is no ELF file: {error}") from None
    kind = (image["e_ident"]["EI_CLASS"], image["e_machine"], image["e_type"])
    if kind != ("ELFCLASS64", "EM_X86_64", "ET_EXEC"):
        raise ValueError(f"{name} is no static program for x86-64, linked at its place: {kind}")
    return image
