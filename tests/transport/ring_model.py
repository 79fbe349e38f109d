"""The split virtqueue once more (virtio 1.4, 2.7): slow, obvious, written from the specification.

It shares with the real ring nothing but the bytes, so either end may be the model's. Here are the
memory, the words and the driver's end; `ring_model_device` has the other end.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

from paravirt.transport._errors import AddressError
from paravirt.transport._features import Feature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paravirt.transport._geometry import RingGeometry

NEXT, WRITE, INDIRECT = 1, 2, 4
Segment = tuple[int, int]  # address and length


class Bytes(Protocol):
    """Guest memory: the real one, or `ModelMemory`."""

    def read(self, addr: int, n: int, /) -> bytes: ...

    def write(self, addr: int, data: bytes, /) -> None: ...


class ModelMemory:
    """Guest memory as the guest sees it: a number at each address that exists."""

    def __init__(self, *areas: range) -> None:
        self._bytes = {at: 0 for area in areas for at in area}

    def read(self, addr: int, n: int) -> bytes:
        try:
            return bytes(self._bytes[at] for at in range(addr, addr + n))
        except KeyError:
            raise AddressError from None

    def write(self, addr: int, data: bytes) -> None:
        self.read(addr, len(data))
        self._bytes.update(enumerate(data, addr))


class SharedRing:
    """The three areas of a virtqueue, word by word."""

    def __init__(self, memory: Bytes, geometry: RingGeometry) -> None:
        self.memory = memory
        self.size = geometry.size
        self.desc, self.avail, self.used = geometry.desc, geometry.driver, geometry.device
        self.used_event = self.avail + 4 + 2 * self.size
        self.avail_event = self.used + 4 + 8 * self.size
        self.indirect = bool(geometry.features & Feature.RING_INDIRECT_DESC)
        self.event_idx = bool(geometry.features & Feature.RING_EVENT_IDX)

    def get(self, addr: int) -> int:
        return int.from_bytes(self.memory.read(addr, 2), "little")

    def put(self, addr: int, value: int) -> None:
        self.memory.write(addr, (value % 65536).to_bytes(2, "little"))

    def avail_entry(self, index: int) -> int:
        return self.avail + 4 + 2 * (index % self.size)

    def used_entry(self, index: int) -> int:
        return self.used + 4 + 8 * (index % self.size)

    def kick_needed(self, old: int, new: int) -> bool:
        """2.7.10.1: what the driver must do after its index went from `old` to `new`."""
        return self._needed(old, new, self.used, self.avail_event)

    def call_needed(self, old: int, new: int) -> bool:
        """2.7.7.2: what the device must do after its index went from `old` to `new`."""
        return self._needed(old, new, self.avail, self.used_event)

    def _needed(self, old: int, new: int, flags: int, event: int) -> bool:
        entries = [(old + i) % 65536 for i in range((new - old) % 65536)]
        if self.event_idx:
            return self.get(event) in entries
        return bool(entries) and self.get(flags) & 1 == 0


class ModelDriver:
    """The driver's end, with the methods of `DriverRing`."""

    def __init__(
        self,
        memory: Bytes,
        geometry: RingGeometry,
        *,
        tables: int = 0,
        table_max: int = 0,
        index: int = 0,
    ) -> None:
        self.ring = SharedRing(memory, geometry)
        memory.write(self.ring.avail, bytes(6 + 2 * self.ring.size))
        memory.write(self.ring.used, bytes(6 + 8 * self.ring.size))
        self.ring.put(self.ring.avail + 2, index)
        self.ring.put(self.ring.used + 2, index)
        self.avail = self.published = self.taken = index
        self.tables = tables
        self.table_max = table_max if tables and self.ring.indirect else 0
        self.free = list(range(self.ring.size))
        self.chains: dict[int, tuple[list[int], int]] = {}  # descriptors and writable bytes by head

    def add(self, readable: Sequence[Segment], writable: Sequence[Segment] = ()) -> int | None:
        rows = [(a, n, 0) for a, n in readable] + [(a, n, WRITE) for a, n in writable]
        if not 0 < len(rows) <= self.ring.size:
            raise ValueError("2.7.5.3.1")
        indirect = 1 < len(rows) <= self.table_max
        if len(self.free) < (1 if indirect else len(rows)):
            return None
        used = [self.free.pop() for _ in rows[: 1 if indirect else None]]
        if indirect:
            table = self.tables + used[0] * self.table_max * 16
            self._put_chain(table, rows, list(range(len(rows))))
            self._put_desc(self.ring.desc + 16 * used[0], table, 16 * len(rows), INDIRECT, 0)
        else:
            self._put_chain(self.ring.desc, rows, used)
        self.chains[used[0]] = (used, sum(n for _, n in writable))
        self.ring.put(self.ring.avail_entry(self.avail), used[0])
        self.avail = (self.avail + 1) % 65536
        return used[0]

    def _put_chain(self, table: int, rows: list[tuple[int, int, int]], places: list[int]) -> None:
        for row, place, after in zip(rows, places, [*places[1:], None], strict=True):
            addr, length, flags = row
            more = 0 if after is None else NEXT
            self._put_desc(table + 16 * place, addr, length, flags | more, after or 0)

    def _put_desc(self, at: int, addr: int, length: int, flags: int, after: int) -> None:
        self.ring.memory.write(at, struct.pack("<QIHH", addr, length, flags, after))

    def publish(self) -> bool:
        old, self.published = self.published, self.avail
        self.ring.put(self.ring.avail + 2, self.avail)
        return self.ring.kick_needed(old, self.avail)

    def reap(self) -> list[int]:
        flat: list[int] = []
        while self.pending() and len(flat) < 2 * 256:
            entry = self.ring.memory.read(self.ring.used_entry(self.taken), 8)
            head, length = struct.unpack("<II", entry)
            used, writable = self.chains.pop(head)
            self.free += used
            flat += [head, min(length, writable)]
            self.taken = (self.taken + 1) % 65536
        return flat

    def pending(self) -> bool:
        return self.ring.get(self.ring.used + 2) != self.taken

    def arm(self) -> bool:
        if self.ring.event_idx:
            self.ring.put(self.ring.used_event, self.taken)
        else:
            self.ring.put(self.ring.avail, 0)
        return self.pending()

    def disarm(self) -> None:
        if self.ring.event_idx:
            self.ring.put(self.ring.used_event, self.taken + 0x8000)
        else:
            self.ring.put(self.ring.avail, 1)
