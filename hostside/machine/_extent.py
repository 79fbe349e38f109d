"""A piece of guest memory, as documents hold it."""

from __future__ import annotations

import msgspec

__all__ = ()  # of use to this room only


class Extent(msgspec.Struct, frozen=True):
    """Bytes of guest memory, and where they lie."""

    address: int
    data: bytes

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + len(self.data)
