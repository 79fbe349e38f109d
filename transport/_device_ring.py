"""The device's end of a split virtqueue, over the C core (virtio 1.4, 2.7)."""

from __future__ import annotations

import errno
import functools
import struct
from array import array
from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from ._errors import ERRNO_BASE, Cause, MemoryGone, PeerError, check
from ._queues import ring_sizes
from ._ring_statistics import DeviceRingStatistics

if TYPE_CHECKING:
    from typing import TypeAlias

    from ._dirty_log import DirtyLog
    from ._geometry import RingGeometry
    from ._memory import Memory
    from .inflight import Inflight

    Tokens: TypeAlias = array[int] | list[int]
    Lengths: TypeAlias = array[int] | list[int] | None

if lib.PV_E_COUNT != ERRNO_BASE:
    raise ImportError("the C core is of another version than its Python part: build it again")

# Chains a turn takes at most: the usual queue size. At 64 a turn already costs little beside them.
BATCH = 256
_CALL: int = lib.PV_CYCLE_CALL
_STALLED: int = lib.PV_CYCLE_STALLED
_BAD: int = lib.PV_CYCLE_BAD
_COUNT_MASK = 0xFFFF
_BYTES = ffi.typeof("char[]")
_HEADER_BYTES = 64
"""Up to so much is read through a buffer made once: the headers of requests."""
_uncleared = ffi.new_allocator(should_clear_after_alloc=False)
_FEW = 4
"""Up to so many completions it is cheaper to have cffi copy a list than to borrow an array."""
_cycle = lib.pv_host_cycle
_turn = lib.pv_host_turn


class DeviceRing:
    """The device's end: takes chains, hands them back, asks for kicks.

    A chain is known by its token, an int that is good once. One thread at a time may use a ring. It
    fulfils `paravirt.doorbells.Watched`.
    """

    def __init__(
        self,
        memory: Memory,
        geometry: RingGeometry,
        *,
        table_max: int = 0,
        generation: int = 1,
        avail: int = 0,
        used: int = 0,
        inflight: Inflight | None = None,
    ) -> None:
        """Start on a ring that the driver has laid out.

        `table_max` caps indirect tables, 0 standing for the queue size (2.7.5.3.1); `generation`
        sets its tokens apart from those of the queue's earlier lives; `avail` and `used` are the
        indices to go on from. `inflight` is a table to keep of the chains that the device has;
        those which it names already are taken first.

        Raises `AddressError` for an area outside guest memory and `ValueError` for a size or an
        alignment that 2.7 forbids.
        """
        self.geometry = geometry
        self.concurrent = True
        """Whether the driver may run while this thread spins; if not, `spin` looks once."""
        self.call_due = False
        """Whether the last turn found that the driver wants a call."""
        self.stalled = False
        """Whether no more chains can be taken until some are completed."""
        self.rejects = False
        """Whether chains went back unserved, for a reason that `take_reject` has."""
        self._table = memory.table
        self._popped = ffi.new("struct pv_popped[]", min(BATCH, geometry.size))
        self._words = ffi.cast("uint64_t *", self._popped)
        self._view = memoryview(ffi.buffer(self._popped)).cast("Q")
        self._header = ffi.new(_BYTES, _HEADER_BYTES)
        self._ring = ffi.new("struct pv_device_ring *")
        room = self._popped, len(self._popped), lib.PV_NO_LIMIT
        self._turn = ffi.new("struct pv_turn *", (self._ring, *room))
        self._start(table_max, generation & 0xFFFF, avail, used)
        self._inflight = inflight
        if inflight is not None:
            inflight.attach(self._ring, geometry.size)

    def _start(self, table_max: int, generation: int, avail: int, used: int) -> None:
        size = self.geometry.size
        layout = self.geometry.to_c()
        count = lib.pv_node_count(size)
        if table_max > size:
            count = max(count, size + table_max)
        self._slots = ffi.new("struct pv_slot[]", size)
        self._nodes = nodes = ffi.new("struct pv_node[]", count)
        ring, table, slots = self._ring, self._table.c, self._slots
        rc: int = lib.pv_device_start(
            ring, table, layout, slots, nodes, count, table_max, generation, avail, used
        )
        check(rc)

    def log_to(self, log: DirtyLog, used: int | None = None) -> None:
        """Mark each page that is written from now on; to be said before the ring is used.

        `used` is where the log has the device ring, None if writes to that are not to be logged.
        Raises `PeerError` if it does not lie within the log.
        """
        log.start(self._ring, used, ring_sizes(self.geometry.size).device)
        self._log = log

    def peek(self, size: int) -> None:
        """Have the first `size` bytes of each chain copied as it is taken, for `heads`.

        It costs some 10 ns a chain, where a `read` later costs 400. Raises `ValueError` for more
        than there is sense in.
        """
        if not 0 <= size <= _HEADER_BYTES:
            raise ValueError(f"{size} bytes of each chain: need 0 to {_HEADER_BYTES}")
        self._heads = ffi.new("uint8_t[]", len(self._popped) * size)
        self._heads_view = ffi.buffer(self._heads)
        self._turn.heads = self._heads
        self._turn.head_size = size

    def heads(self, count: int) -> tuple[bytes, ...]:
        """Return the first bytes of `count` chains in hand, as many as `peek` was told of.

        Behind the end of a shorter chain they mean nothing.
        """
        turn = self._turn
        size = turn.head_size
        return _heads_layout(size, count).unpack_from(self._heads_view, turn.ended * size)

    def cycle(
        self, done: Tokens, lengths: Lengths = None, spin_ns: int = 0, ended: int = 0
    ) -> list[int]:
        """Complete the chains `done`, publish them, and take new ones.

        `lengths` are their used lengths; without any, a chain counts as used up to the last byte
        written. The next `ended` chains of those taken last are completed the same way, but for
        those that were completed already.

        Returns the new chains as a flat list: token, sizes, token, sizes..., where sizes is
        readable << 32 | writable bytes. With none there and no call due, looks for up to `spin_ns`
        without the interpreter lock. Sets `call_due`, `stalled` and `rejects`. Arrays are taken as
        they are, lists are copied.

        Raises `RingBroken` or `MemoryGone`, once no call is due any more.
        """
        if not self.concurrent:
            spin_ns = 0
        if done or lengths:
            rc: int = _cycle(self._turn, *_to_c(done, lengths), ended, spin_ns)
        else:
            rc = _turn(self._turn, ended, spin_ns)
        self.call_due = self.stalled = self.rejects = False
        if rc > _COUNT_MASK:
            self.note(rc)
            rc &= _COUNT_MASK
        if rc <= 0:
            check(rc)
            return []
        if rc == 1:  # what a driver does that waits for each reply: spare it the detour
            words = self._words
            return [words[0], words[1]]
        return self._view[: 2 * rc].tolist()

    def note(self, rc: int) -> None:
        """Set `call_due`, `stalled` and `rejects` by what a turn in C returned."""
        self.call_due = rc & _CALL != 0
        self.stalled = rc & _STALLED != 0
        self.rejects = rc & _BAD != 0

    def rest(self) -> list[int]:
        """Return the chains taken last that are not over yet, as `cycle` did."""
        turn = self._turn
        return self._view[2 * turn.ended : 2 * turn.taken].tolist()

    def complete(self, done: Tokens, lengths: Lengths = None, ended: int = 0) -> bool:
        """Complete chains and publish them, taking none; True if the driver wants a call.

        Raises nothing for what the driver did: a ring that is broken says so at the next `cycle`.
        """
        tokens, used, count = _to_c(done, lengths)
        rc: int = lib.pv_host_complete(self._turn, tokens, used, count, ended)
        return rc == _CALL

    def take_reject(self) -> PeerError:
        """Return why the last chain went back unserved, once; `rejects` says that one did."""
        cause = Cause(self._ring.bad)
        self._ring.bad = 0
        return PeerError(f"bad chain: {cause.text}", cause=cause)

    def holds(self, token: int) -> bool:
        """Say whether the device has this chain now."""
        return bool(lib.pv_device_slot(self._ring, token))

    def written(self, token: int) -> int:
        """Say where the last byte written into a chain ends, 0 for a token that is stale."""
        slot: Any = lib.pv_device_slot(self._ring, token)
        return slot.written if slot else 0

    def pending(self) -> bool:
        """Say whether there is a chain to take, or an error to be told of by `cycle`."""
        return self.limit != 0 and lib.pv_host_device_spin(self._ring, 0) != 0

    def spin(self, ns: int) -> bool:
        """Look for a chain for up to `ns`, without the interpreter lock."""
        if self.limit == 0:
            return False
        return bool(lib.pv_host_device_spin(self._ring, ns if self.concurrent else 0))

    def arm(self) -> bool:
        """Ask for a kick at the next chain, and look again behind a full barrier (2.7.10)."""
        return lib.pv_host_device_arm(self._ring) != 0 and self.limit != 0

    def disarm(self) -> None:
        """Ask for no kick (2.7.10)."""
        lib.pv_host_device_disarm(self._ring)

    def read(self, token: int, offset: int, size: int) -> bytes:
        """Copy up to `size` readable bytes at `offset` of a chain.

        Short at its end, empty for a token that is stale.
        """
        buffer = self._header if size <= _HEADER_BYTES else _uncleared(_BYTES, size)
        count = lib.pv_host_read(self._ring, token, offset, buffer, size)
        data: bytes = ffi.unpack(buffer, count if count >= 0 else self._moved(count))
        return data

    def write(self, token: int, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Copy bytes into the writable part of a chain at `offset`.

        Returns how many fitted, 0 for a token that is stale.
        """
        source = data if isinstance(data, bytes) else ffi.from_buffer(data)
        count: int = lib.pv_host_write(self._ring, token, offset, source, len(source))
        return count if count >= 0 else self._moved(count)

    def read_file(
        self,
        token: int,
        offset: int,
        fd: int,
        position: int,
        size: int,
        flags: int = 0,
        last: bytes = b"",
    ) -> int:
        """Read a file into the writable part of a chain (preadv2).

        Once all `size` bytes moved, `last` becomes the end of that part, if it fits.

        Returns bytes moved, short at the end of the file.
        Raises `OSError`, or `BlockingIOError` if `flags` has `os.RWF_NOWAIT` and the bytes are not
        at hand.
        """
        return self._moved(
            lib.pv_host_read_whole(
                self._ring, token, offset, fd, position, size, flags, last, len(last)
            )
        )

    def write_file(
        self,
        token: int,
        offset: int,
        fd: int,
        position: int,
        size: int,
        flags: int = 0,
        last: bytes = b"",
    ) -> int:
        """Write the readable part of a chain to a file (pwritev2); `last` as with `read_file`.

        Returns bytes moved. Raises `OSError`.
        """
        return self._moved(
            lib.pv_host_write_whole(
                self._ring, token, offset, fd, position, size, flags, last, len(last)
            )
        )

    def _moved(self, count: int) -> int:
        if count >= 0:
            return count
        if count == -Cause.STALE:
            return 0
        if count == -(ERRNO_BASE + errno.EFAULT):
            raise MemoryGone
        return check(count)

    @property
    def limit(self) -> int | None:
        """How many more chains may be taken; None for no limit."""
        limit: int = self._turn.limit
        return None if limit == lib.PV_NO_LIMIT else limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._turn.limit = lib.PV_NO_LIMIT if limit is None else limit

    @property
    def c(self) -> Any:
        """The core's `struct pv_device_ring *`, for loops in C."""
        return self._ring

    @property
    def turn(self) -> Any:
        """The core's `struct pv_turn *`, for loops in C that take and give back by themselves."""
        return self._turn

    @property
    def in_flight(self) -> int:
        """Chains that the device has now."""
        count: int = self._ring.in_flight
        return count

    @property
    def left_behind(self) -> int:
        """Chains that an earlier server of the queue had, and that were not taken up yet."""
        return 0 if self._inflight is None or self._ring.broken else self._inflight.left

    def in_hand(self) -> list[int]:
        """Return the heads of all chains taken and not given back, and of those to take again."""
        heads = [head for head in range(self.geometry.size) if self._slots[head].in_flight]
        left = self.left_behind
        return heads if not left or self._inflight is None else heads + self._inflight.heads[-left:]

    @property
    def indices(self) -> tuple[int, int]:
        """The available index to take next and the used index to fill next."""
        ring: Any = self._ring
        return ring.last_avail, ring.used

    def statistics(self) -> DeviceRingStatistics:
        """Return the counters of this life of the queue."""
        ring: Any = self._ring
        counts = enumerate(ring.rejected)
        return DeviceRingStatistics(
            popped=ring.popped,
            completed=ring.completed,
            in_flight=ring.in_flight,
            bytes_in=ring.bytes_in,
            bytes_out=ring.bytes_out,
            stale=ring.stale,
            rejected={Cause(cause).name.lower(): count for cause, count in counts if count},
            broken=Cause(ring.broken).name.lower() if ring.broken else None,
            ahead=self._turn.ahead,
            silent=self._turn.silent,
        )


@functools.cache
def _heads_layout(size: int, count: int) -> struct.Struct:
    return struct.Struct(f"{size}s" * count)  # 24 bytes an item, at most BATCH of them


def _to_c(done: Tokens, lengths: Lengths) -> tuple[Any, Any, int]:
    count = len(done)
    tokens: Any = done
    if count <= _FEW or not isinstance(done, array):
        tokens = list(tokens)
    else:
        tokens = ffi.from_buffer("uint64_t[]", done)
    used: Any = ffi.NULL
    if lengths is not None:
        used = ffi.from_buffer("uint32_t[]", lengths) if isinstance(lengths, array) else lengths
        if len(used) != count:
            raise ValueError(f"{count} chains, {len(used)} used lengths")
    if len(tokens) != count:  # as the core will read them, whatever their items
        raise ValueError(f"{len(tokens)} chains of {count}")
    return tokens, used, count
