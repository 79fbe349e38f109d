"""What became of a guest's instructions, in words."""

from __future__ import annotations

from typing import Final

import msgspec

from .._errors import MachineError

__all__ = ("ChangedPage", "TextChanged", "TextReport")

_NAMED: Final = 4  # pages that an error has a line for; the report has all


class ChangedPage(msgspec.Struct, frozen=True):
    """A page of text that is not what it was."""

    address: int
    first: int
    """The address of the first byte that differs."""
    before: str
    """From there to the last that differs, at most 16: what was measured, in hexadecimal."""
    after: str
    """The same bytes now."""

    def __str__(self) -> str:
        return f"page {self.address:#x}, at {self.first:#x}: {self.before} became {self.after}"


class TextReport(msgspec.Struct, frozen=True):
    """A guest's executable memory, held against what was loaded."""

    measured: str
    """SHA-256 of it when it was loaded, as `measure` gives it."""
    found: str
    """The same of what is there now."""
    pages: int
    """How many pages of 4 KiB have a part in it."""
    changed: tuple[ChangedPage, ...]
    """Those that are not what they were."""
    doorbells: tuple[str, ...]
    """The kinds that the guest could ring in its last run."""


class TextChanged(MachineError):
    """A guest's instructions are not what was loaded: it, a device or KVM rewrote them."""

    report: TextReport

    def __init__(self, report: TextReport) -> None:
        self.report = report
        pages = report.changed
        bells = ", ".join(report.doorbells) or "no doorbell"
        count = "1 page" if len(pages) == 1 else f"{len(pages)} pages"
        lines = [f"the guest's text was changed in {count}, with {bells} attached"]
        lines += [str(page) for page in pages[:_NAMED]]
        if len(pages) > _NAMED:
            lines.append(f"and {len(pages) - _NAMED} more")
        super().__init__("\n".join(lines))
