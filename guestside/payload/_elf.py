"""Where the payload's ELF is."""

from __future__ import annotations

from pathlib import Path

__all__ = ("PayloadNotBuilt", "path")


class PayloadNotBuilt(FileNotFoundError):
    """There is no payload in this installation; the message says what it takes."""


def path() -> Path:
    """Return the ELF of the payload, for `Machine.load`.

    Raises PayloadNotBuilt where the package was built without it: on another CPU than x86-64, or
    without a C compiler that makes x86-64 code.
    """
    elf = Path(__file__).parent / "payload.elf"
    if not elf.is_file():
        raise PayloadNotBuilt(
            f"the bare-metal payload was not built ({elf} is missing): it needs an x86-64 machine "
            "with gcc or clang when paravirt is installed"
        )
    return elf
