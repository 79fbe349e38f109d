"""Guest memory as a frontend shares it: known by the guest's addresses and by the frontend's."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Literal, TypeAlias

from paravirt.transport import Memory, PeerError, Region

if TYPE_CHECKING:
    from collections.abc import Iterable

    from paravirt.transport.vhost_user import Descriptors
    from paravirt.transport.vhost_user.payloads import MemoryRegion

__all__ = ()  # of use to this room only

AddressSpace: TypeAlias = Literal["frontend", "guest"]
"""Whose addresses SET_VRING_ADDR has: the guest's with GPA_ADDRESSES."""
MAX_SLOTS = 509
"""What the kernel's own backends allow, and QEMU asks for at most."""
MAX_BYTES = 1 << 45
"""32 TiB of memory, a quarter of what a process can map: a file may claim any size without having
it, and other frontends need some room too. The largest machines for hire have 24 TiB."""
_ADDRESSES = 1 << 64


class Regions:
    """The regions of one frontend; raises `PeerError` for those that cannot be."""

    def __init__(self) -> None:
        self.memory = Memory()
        self._regions: list[tuple[MemoryRegion, Region]] = []
        self._again: Counter[MemoryRegion] = Counter()
        """How often a region was added once more."""

    @classmethod
    def table(cls, rows: Iterable[MemoryRegion], fds: Descriptors) -> Regions:
        """Take over a whole table. Raises `PeerError`, keeping nothing, if any of it is wrong."""
        regions = cls()
        try:
            for row in rows:
                regions.add(row, fds)
        except BaseException:
            regions.close()
            raise
        return regions

    def __len__(self) -> int:
        return len(self._regions)

    @property
    def end(self) -> int:
        """The first guest address behind all of them."""
        return max((row.addr + row.size for row, _ in self._regions), default=0)

    def add(self, row: MemoryRegion, fds: Descriptors) -> None:
        """Add one region with the next descriptor. Raises `OSError` without room for it here."""
        if len(self._regions) >= MAX_SLOTS:
            raise PeerError(f"more than {MAX_SLOTS} memory regions")
        if row.size + sum(other.size for other, _ in self._regions) > MAX_BYTES:
            raise PeerError(f"{row.size} more bytes of memory: more than {MAX_BYTES} in all")
        if row.user + row.size > _ADDRESSES:
            raise PeerError(f"a memory region of {row.size} bytes at {row.user:#x}: it overflows")
        for other, _ in self._regions:
            if row.user < other.user + other.size and other.user < row.user + row.size:
                raise PeerError(
                    f"memory regions overlap at the frontend's {row.user:#x} and {other.user:#x}"
                )
        region = Region.foreign(fds.take(), addr=row.addr, size=row.size, offset=row.offset)
        try:
            self.memory.add(region)
        except BaseException as error:
            region.close()
            if isinstance(error, ValueError):
                raise PeerError(str(error)) from None
            raise
        self._regions.append((row, region))

    def add_again(self, row: MemoryRegion, fds: Descriptors) -> bool:
        """Count a region that is there already, if it is; it is there until it is removed as often.

        QEMU 7.2 adds all of memory once for each pair of queues of a network device. Raises
        `PeerError` for the same place in another file.
        """
        for known, region in self._regions:
            if known == row:
                fd = fds.take()
                same = os.path.sameopenfile(region.fd, fd)
                os.close(fd)
                if not same:
                    raise PeerError(f"another file for the memory region at {row.addr:#x}")
                self._again[row] += 1
                return True
        return False

    def remove(self, row: MemoryRegion) -> None:
        """Take one region out; its offset in the file does not matter."""
        for entry in self._regions:
            known, region = entry
            if (known.addr, known.user, known.size) == (row.addr, row.user, row.size):
                if self._again[known]:
                    self._again -= Counter([known])  # which drops those at 0
                    return
                self._regions.remove(entry)
                self.memory.remove(region)
                region.close()
                return
        raise PeerError(f"no memory region of {row.size} bytes at {row.addr:#x} can be removed")

    def translate(self, address: int, size: int, space: AddressSpace) -> int:
        """Return where the guest has what is at `address` in one of the address spaces."""
        for row, _ in self._regions:
            start = row.user if space == "frontend" else row.addr
            if start <= address and address + size <= start + row.size:
                return address - start + row.addr
        raise PeerError(f"{size} bytes of a queue at the {space}'s {address:#x} are in no region")

    def close(self) -> None:
        """Close all; idempotent. Who still uses some of it keeps that."""
        self._regions.clear()
        self.memory.close()
