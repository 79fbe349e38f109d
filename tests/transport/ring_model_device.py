"""The device's end of the model (virtio 1.4, 2.7)."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from paravirt.transport._errors import AddressError, Cause

from .ring_model import INDIRECT, NEXT, WRITE, Bytes, Segment, SharedRing

if TYPE_CHECKING:
    from paravirt.transport._geometry import RingGeometry


class LieError(Exception):
    """What a walk found."""

    def __init__(self, cause: Cause) -> None:
        self.cause = cause


@dataclass
class ModelChain:
    """A chain that passed the walk."""

    head: int
    readable: list[Segment] = field(default_factory=list[Segment])
    writable: list[Segment] = field(default_factory=list[Segment])

    @property
    def sizes(self) -> tuple[int, int]:
        return sum(n for _, n in self.readable), sum(n for _, n in self.writable)

    def take(self, memory: Bytes, addr: int, length: int, flags: int) -> None:
        if self.writable and not flags & WRITE:
            raise LieError(Cause.ORDER)
        (self.writable if flags & WRITE else self.readable).append((addr, length))
        if sum(self.sizes) >= 1 << 32:
            raise LieError(Cause.TOTAL_LENGTH)
        try:
            memory.read(addr, length)
        except AddressError:
            raise LieError(Cause.ADDRESS) from None


class ModelDevice:
    """The device's end, with the methods of `DeviceRing`.

    A chain has as many descriptors as the queue at most, and so does a table. The first lie that a
    walk meets counts; of one descriptor these in turn: indirect without the feature, continued, of
    a wrong length, too long, beyond the last address; out of order, 2^32 bytes or more, outside
    memory; continued at a place that does not exist. Entries of a table that the chain leaves out
    may lie in a hole.
    """

    def __init__(
        self,
        memory: Bytes,
        geometry: RingGeometry,
        *,
        avail: int = 0,
        used: int = 0,
        generation: int = 1,
    ) -> None:
        self.ring = SharedRing(memory, geometry)
        self.last_avail = avail
        self.used = used
        self.chains: dict[int, ModelChain] = {}  # by token
        self.rejected: Counter[Cause] = Counter()
        self.stale = 0
        self.broken: Cause | None = None
        self.call_due = False
        self.stalled = False
        self._token = generation << 48

    @property
    def indices(self) -> tuple[int, int]:
        return self.last_avail, self.used

    def cycle(self, done: list[int], lengths: list[int], spin_ns: int = 0) -> list[int]:
        del spin_ns
        old = self.used
        for token, length in zip(done, lengths, strict=True):
            self._complete(token, length)
        flat = self._pop()
        self.call_due = self._publish(old)
        return flat

    def complete(self, done: list[int], lengths: list[int]) -> bool:
        old = self.used
        for token, length in zip(done, lengths, strict=True):
            self._complete(token, length)
        return self._publish(old)

    def _publish(self, old: int) -> bool:
        if old != self.used:
            self.ring.put(self.ring.used + 2, self.used)
        return self.ring.call_needed(old, self.used)

    def _complete(self, token: int, length: int) -> None:
        chain = self.chains.pop(token, None)
        if chain is None:
            self.stale += 1
        else:
            self._put_used(chain.head, min(length, chain.sizes[1]))

    def _put_used(self, head: int, length: int) -> None:
        self.ring.memory.write(self.ring.used_entry(self.used), struct.pack("<II", head, length))
        self.used = (self.used + 1) % 65536

    def _pop(self) -> list[int]:
        flat: list[int] = []
        offered = (self.ring.get(self.ring.avail + 2) - self.last_avail) % 65536
        if offered > self.ring.size:
            return self._break(Cause.AVAIL_INDEX)
        for _ in range(offered):
            if self.broken or len(flat) == 2 * min(256, self.ring.size):
                break
            head = self.ring.get(self.ring.avail_entry(self.last_avail))
            if head >= self.ring.size:
                self._break(Cause.HEAD_RANGE)
            elif head in [chain.head for chain in self.chains.values()]:
                self._break(Cause.HEAD_IN_FLIGHT)
            else:
                flat += self._take(head)
        return flat

    def _break(self, cause: Cause) -> list[int]:
        self.broken = self.broken or cause
        return []

    def _take(self, head: int) -> list[int]:
        self.last_avail = (self.last_avail + 1) % 65536
        chain = ModelChain(head)
        try:
            self._walk(chain)
        except LieError as lie:
            self.rejected[lie.cause] += 1
            self._put_used(head, 0)
            return []
        self._token += 1
        self.chains[self._token] = chain
        readable, writable = chain.sizes
        return [self._token, readable << 32 | writable]

    def _walk(self, chain: ModelChain) -> None:
        index = chain.head
        for _ in range(self.ring.size):
            addr, length, flags, after = self._desc(self.ring.desc, index)
            if flags & INDIRECT:
                self._check_indirect(addr, length, flags)
                self._walk_table(chain, addr, length // 16)
                return
            chain.take(self.ring.memory, addr, length, flags)
            if not flags & NEXT:
                return
            if after >= self.ring.size:
                raise LieError(Cause.NEXT_RANGE)
            index = after
        raise LieError(Cause.CHAIN_LENGTH)

    def _check_indirect(self, addr: int, length: int, flags: int) -> None:
        if not self.ring.indirect:
            raise LieError(Cause.INDIRECT_UNNEGOTIATED)
        if flags & NEXT:
            raise LieError(Cause.INDIRECT_NEXT)
        if length == 0 or length % 16:
            raise LieError(Cause.INDIRECT_LENGTH)
        if length // 16 > self.ring.size:
            raise LieError(Cause.INDIRECT_SIZE)
        if addr + length > 1 << 64:
            raise LieError(Cause.ADDRESS)

    def _walk_table(self, chain: ModelChain, table: int, count: int) -> None:
        index = 0
        for _ in range(count):
            addr, length, flags, after = self._desc(table, index)
            if flags & INDIRECT:
                raise LieError(Cause.INDIRECT_NESTED)
            chain.take(self.ring.memory, addr, length, flags)
            if not flags & NEXT:
                return
            if after >= count:
                raise LieError(Cause.NEXT_RANGE)
            index = after
        raise LieError(Cause.CHAIN_LENGTH)

    def _desc(self, table: int, index: int) -> tuple[int, int, int, int]:
        try:
            raw = self.ring.memory.read(table + 16 * index, 16)
        except AddressError:
            raise LieError(Cause.ADDRESS) from None
        addr, length, flags, after = struct.unpack("<QIHH", raw)
        return addr, length, flags, after

    def read(self, token: int, offset: int, size: int) -> bytes:
        parts = self.chains[token].readable
        return b"".join(self.ring.memory.read(a, n) for a, n in parts)[offset : offset + size]

    def write(self, token: int, offset: int, data: bytes) -> int:
        places = [at for a, n in self.chains[token].writable for at in range(a, a + n)]
        fits = list(zip(places[offset:], data, strict=False))
        for at, byte in fits:
            self.ring.memory.write(at, bytes([byte]))
        return len(fits)

    def pending(self) -> bool:
        return self.ring.get(self.ring.avail + 2) != self.last_avail

    def arm(self) -> bool:
        if self.ring.event_idx:
            self.ring.put(self.ring.avail_event, self.last_avail)
        else:
            self.ring.put(self.ring.used, 0)
        return self.pending()

    def disarm(self) -> None:
        if self.ring.event_idx:
            self.ring.put(self.ring.avail_event, self.last_avail + 0x8000)
        else:
            self.ring.put(self.ring.used, 1)
