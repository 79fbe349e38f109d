"""What a payload's executable memory is, so that a change of it is seen."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from . import _elf

if TYPE_CHECKING:
    from pathlib import Path

    from paravirt.transport import Memory

__all__ = ("TextReport", "measure")


class TextReport(msgspec.Struct, frozen=True):
    """A payload's text before and after something."""

    before: str
    """Digest as `measure` gives it."""
    after: str

    @property
    def changed(self) -> bool:
        """Whether the guest, or KVM for it, rewrote an instruction."""
        return self.before != self.after


def measure(elf: Path | bytes, memory: Memory) -> str:
    """Return a digest (SHA-256, in hexadecimal) of the executable segments as they lie in memory.

    Which those are is what the file says (PF_X); their places go into the digest, too. A segment
    that is executable and writable counts, and changes as the payload runs.

    Raises ValueError for what is no static x86-64 program; OSError if the file cannot be read;
    RuntimeError without pyelftools; PeerError for a segment outside of memory.
    """
    digest = hashlib.sha256()
    for segment in _elf.read(elf)[1]:
        if segment.executable:
            digest.update(f"{segment.start:x}-{segment.end:x}\n".encode())
            digest.update(memory.read(segment.start, segment.end - segment.start))
    return digest.hexdigest()
