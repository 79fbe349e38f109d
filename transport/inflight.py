"""A file that remembers which chains a device has in hand, for whoever serves its queues next.

vhost-user calls it inflight descriptors: the backend makes the file, the frontend keeps it, and
hands it to the backend that comes after a crash. It has a table for each queue, which the core
keeps (core/host/inflight.h); here it is made, read and taken up again. Split rings only.
"""

from __future__ import annotations

import sys
from typing import Any, Self

from ._core import ffi, lib
from ._errors import PeerError
from ._memory import Memory
from ._region import Region

__all__ = ("Inflight", "InflightFile", "table_size", "take_again")

MAX_QUEUES = 256
"""vhost-user names a queue in 8 bits."""
MAX_SIZE = 32768
"""Descriptors of a queue (2.7)."""
_VERSION: int = lib.PV_INFLIGHT_VERSION
_ALIGNMENT: int = lib.PV_INFLIGHT_ALIGNMENT
_HEADER: int = ffi.sizeof("struct pv_inflight_queue")
_ENTRY: int = ffi.sizeof("struct pv_inflight_desc")
_VERSION_AT: int = ffi.offsetof("struct pv_inflight_queue", "version")
_USED_AT: int = ffi.offsetof("struct pv_inflight_queue", "used_idx")
_COUNTERS = 1 << 64


def table_size(queue_size: int) -> int:
    """Return the bytes that a queue's table takes in the file."""
    return -(-(_HEADER + queue_size * _ENTRY) // _ALIGNMENT) * _ALIGNMENT


def take_again(size: int, used: int, heads: list[int]) -> Inflight:
    """Return a private table for a ring of `size` descriptors that takes `heads` before all else.

    Both indices of the ring go on from `used`. Raises `PeerError` for heads that no device can have
    in hand.
    """
    if len(set(heads)) < len(heads) or not all(0 <= head < size for head in heads):
        raise PeerError(f"chains {heads} in hand, of a queue of {size}")
    file = InflightFile.create(1, size)
    try:
        table = file.take_up(0, size, avail=used, used=used)
    finally:
        file.close()
    table.heads, table.fresh = heads, False
    return table


class InflightFile:
    """The file, mapped. Another's is not trusted: neither its size nor a byte in it."""

    def __init__(self, region: Region, queues: int, queue_size: int) -> None:
        """Take over a region that has room for the tables."""
        self.region = region
        self.queues = queues
        self.queue_size = queue_size
        """Descriptors that each table has room for; a queue may have fewer."""
        self._memory = Memory([region])

    @classmethod
    def create(cls, queues: int, queue_size: int) -> Self:
        """Make a file for queues that nothing was taken from, which cannot change its size.

        Raises `PeerError` for numbers that cannot be, `OSError` if there is no memory.
        """
        size = _check(queues, queue_size)
        return cls(Region.create(size, addr=0), queues, queue_size)

    @classmethod
    def foreign(cls, fd: int, *, size: int, offset: int, queues: int, queue_size: int) -> Self:
        """Map a file that a peer sent. Takes over `fd`, which is closed on failure too.

        Raises `PeerError` if the tables do not fit into the `size` bytes at `offset`, or those do
        not lie within the file; `OSError` if this process has no room for them.
        """
        region = Region.foreign(fd, addr=0, size=size, offset=offset)
        try:
            _check_room(_check(queues, queue_size), size, offset)
            return cls(region, queues, queue_size)
        except BaseException:
            region.close()
            raise

    def take_up(self, queue: int, size: int, *, avail: int, used: int) -> Inflight:
        """Read the table of a queue that is about to start, and make it right.

        The queue has `size` descriptors, and `avail` and `used` are the indices that its ring has.
        Raises `PeerError` for a table that cannot be true: nothing is then known of the queue, and
        it must not run. Raises `MemoryGone` if the peer took the file away.
        """
        if queue >= self.queues or size > self.queue_size:
            raise PeerError(
                f"queue {queue} has size {size}: the inflight file is for {self.queues} queues of"
                f" up to {self.queue_size}"
            )
        found = _Table(self._memory, queue, queue * table_size(self.queue_size), self.queue_size)
        if found.fresh:
            return found.begin(used)
        heads = found.in_hand(size, used)
        offered = (avail - used) & 0xFFFF
        if not len(heads) <= offered <= size:
            found.refuse(f"{len(heads)} chains in hand, of {offered} that the driver offered")
        return found.settle(used, heads)

    def forget(self) -> None:
        """Note that nothing is in hand, as after a reset. Raises `MemoryGone`."""
        for queue in range(self.queues):
            self._memory.write(queue * table_size(self.queue_size) + _VERSION_AT, bytes(2))

    def close(self) -> None:
        """Close the file; a queue that runs keeps its table mapped. Idempotent."""
        self._memory.close()


class Inflight:
    """The table of one queue that runs, as its `DeviceRing` takes it."""

    def __init__(self, memory: Memory, address: int, used: int, heads: list[int] | None) -> None:
        """Keep the table at an address; the rest as the attributes say."""
        self.used = used
        """The used index of the ring, from which both indices go on."""
        self.fresh = heads is None
        """Whether nothing was known: the available index is for others to say."""
        self.heads = heads or []
        """The chains that are taken once more, in the order in which they were first taken."""
        self._table = memory.table  # stays mapped
        place = lib.pv_memory_host(self._table.c, address, _HEADER, ffi.new("uint32_t *"))
        self.c: Any = ffi.new("struct pv_inflight *")
        """The core's `struct pv_inflight *`."""
        self.c.table = ffi.cast("struct pv_inflight_queue *", place)
        self.c.memory = self._table.c

    def go_on(self, last_batch_head: int, counter: int) -> None:
        """Go on with the list and the counter of an earlier server."""
        self.c.last_batch_head = last_batch_head
        self.c.counter = counter

    def attach(self, ring: Any, size: int) -> None:
        """Have the core keep the table of a ring of this size, which was just started."""
        self._batch = self.c.batch = ffi.new("uint16_t[]", size)
        self._again = self.c.again = ffi.new("uint16_t[]", size + 3)
        lib.pv_inflight_start(self.c, ring, self.heads, len(self.heads))

    @property
    def left(self) -> int:
        """How many of `heads` were not taken yet."""
        count: int = self.c.left
        return count


class _Table:
    """A private copy of a table, made by one read, and the way back to the shared one."""

    def __init__(self, memory: Memory, queue: int, address: int, queue_size: int) -> None:
        self._memory = memory
        self._queue = queue
        self._address = address
        self._size = queue_size
        self._data = memory.read(address, _HEADER + queue_size * _ENTRY)
        self._c: Any = ffi.cast("struct pv_inflight_queue *", ffi.from_buffer(self._data))
        self._returned: list[int] = []

    @property
    def fresh(self) -> bool:
        """Whether no queue has used it."""
        return not self._c.version

    def refuse(self, text: str) -> None:
        """Raise `PeerError`."""
        raise PeerError(f"the inflight table of queue {self._queue}: {text}")

    def begin(self, used: int) -> Inflight:
        """Make it the table of a queue with nothing in hand."""
        self._memory.write(self._address, bytes(len(self._data)))
        copy = ffi.new("struct pv_inflight_queue *")
        copy.desc_num, copy.used_idx = self._size, used
        self._memory.write(self._address, ffi.buffer(copy, _HEADER))
        version = _VERSION.to_bytes(2, sys.byteorder)  # last, since it says that the rest is true
        self._memory.write(self._address + _VERSION_AT, version)
        return Inflight(self._memory, self._address, used, None)

    def in_hand(self, size: int, used: int) -> list[int]:
        """Return the heads that were taken and not given back, in the order of their counters."""
        c = self._c
        if (c.features, c.version, c.desc_num) != (0, _VERSION, self._size):
            self.refuse(f"version {c.version}, {c.desc_num} entries, features {c.features:#x}")
        marks = self._data[_HEADER::_ENTRY]
        if marks.strip(b"\0\1") or any(marks[size:]):
            self.refuse(f"a mark that is neither 0 nor 1, or of a chain beyond the queue's {size}")
        self._returned = self._last_batch(size, (used - c.used_idx) & 0xFFFF)
        done = set(self._returned)
        heads = [head for head in range(size) if marks[head] and head not in done]
        return sorted(heads, key=lambda head: c.desc[head].counter)

    def _last_batch(self, size: int, count: int) -> list[int]:
        """Return the heads that were given back while their marks were not cleared yet."""
        if count > size:
            self.refuse(f"{count} chains given back at once, to a queue of {size}")
        heads: dict[int, None] = {}
        head: int = self._c.last_batch_head
        for _ in range(count):
            if head >= size or head in heads:
                self.refuse(f"the list of the last batch leads to {head}")
            heads[head] = None
            head = self._c.desc[head].next
        return list(heads)

    def settle(self, used: int, heads: list[int]) -> Inflight:
        """Clear the marks of the last batch, and take over the used index of the ring."""
        for head in self._returned:
            self._memory.write(self._address + _HEADER + head * _ENTRY, b"\0")
        self._memory.write(self._address + _USED_AT, used.to_bytes(2, sys.byteorder))
        last = self._c.desc[heads[-1]].counter if heads else -1
        table = Inflight(self._memory, self._address, used, heads)
        table.go_on(self._c.last_batch_head, (last + 1) % _COUNTERS)
        return table


def _check(queues: int, queue_size: int) -> int:
    """Return the bytes that the tables take. Raises `PeerError` for numbers that cannot be."""
    if not 0 < queues <= MAX_QUEUES or not 0 < queue_size <= MAX_SIZE:
        raise PeerError(f"an inflight file for {queues} queues of {queue_size}", clause="2.7")
    return queues * table_size(queue_size)


def _check_room(needed: int, size: int, offset: int) -> None:
    if size < needed:
        raise PeerError(f"an inflight file of {size} bytes, whose tables take {needed}")
    if offset % _ENTRY:  # of the file, and so of the memory: a counter is a word of 8 bytes
        raise PeerError(f"an inflight file at offset {offset}, no multiple of {_ENTRY}")
