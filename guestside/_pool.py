"""Buffers in shared memory, for requests and rings: a buddy allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paravirt.transport import Memory

__all__ = ()  # of use to this room only

_SMALLEST = 6
"""64 bytes, a cache line: two buffers in use by different sides share none, and a copy from or to a
buffer is never 1-31 bytes off a page boundary, where some CPUs copy 15 times slower."""


class BufferPool:
    """Gives out blocks of 2^n bytes, each aligned to its size up to a page and beyond.

    A block is known by its guest-physical address. Freed blocks are merged only when a request
    cannot be met otherwise, so that a steady load merges and splits nothing.
    """

    def __init__(self, memory: Memory, address: int, size: int) -> None:
        """Take over a range of one region. Raises `AddressError` if it is not guest memory."""
        (self.bytes,) = memory.view(address, size)
        """The range itself; `address` is at index 0."""
        self.address = address
        self.largest = 0
        """The largest block there can be, as `settle` found it."""
        self._size = size
        self._free: list[list[int]] = []
        self.clear()

    def clear(self) -> None:
        """Take all blocks back, also those that were given out for good."""
        self._free = [[] for _ in range(self._size.bit_length())]
        end = self.address + self._size
        start = -(-self.address >> _SMALLEST << _SMALLEST)  # rounded up
        while end - start >= 1 << _SMALLEST:
            # The largest block that is aligned to its size and still fits.
            order = min((start & -start).bit_length(), (end - start).bit_length()) - 1
            self._free[order].append(start)
            start += 1 << order

    def settle(self) -> None:
        """Keep what is given out now for good, and note how large any later block can be."""
        self._merge()
        self.largest = max((1 << order for order, free in enumerate(self._free) if free), default=0)

    @property
    def free(self) -> int:
        """Bytes not given out."""
        return sum(len(free) << order for order, free in enumerate(self._free))

    def allocate(self, size: int) -> int | None:
        """Return the address of a free block of at least `size` bytes; None if there is none."""
        order = max(_SMALLEST, (size - 1).bit_length())
        if order >= len(self._free):
            return None
        if not self._free[order] and not self._split(order):
            self._merge()
            if not self._free[order] and not self._split(order):
                return None
        return self._free[order].pop()

    def release(self, address: int, size: int) -> None:
        """Take a block back, given the size that was asked for."""
        self._free[max(_SMALLEST, (size - 1).bit_length())].append(address)

    def _split(self, order: int) -> bool:
        for larger in range(order + 1, len(self._free)):
            if self._free[larger]:
                address = self._free[larger].pop()
                while larger > order:
                    larger -= 1
                    self._free[larger].append(address + (1 << larger))
                self._free[order].append(address)
                return True
        return False

    def _merge(self) -> None:
        for order in range(_SMALLEST, len(self._free) - 1):
            free = set(self._free[order])
            for address in sorted(free):
                buddy = address ^ (1 << order)
                if address < buddy and address in free and buddy in free:
                    free -= {address, buddy}
                    self._free[order + 1].append(address)
            self._free[order] = sorted(free, reverse=True)
