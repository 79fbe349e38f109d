"""One virtqueue of a device while its driver runs it."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, cast

import trio

from paravirt.doorbells import wait_for_work
from paravirt.transport import PeerError

from ._completions import Completions
from ._ended import EndedRing
from ._metrics import QueueStatistics
from ._pace import ALONE_NS, HOLD_NS, LONGEST_SHARE_NS, SHARE_NS
from ._request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from paravirt.transport import DeviceRing
    from paravirt.transport.link import QueueStart

    from ._loop import Loop


class DeviceQueue(Completions):
    """A virtqueue as the device's end of a link gave it to the server.

    A device uses it by `take`, and only for its `taken_queues`.
    """

    stopping = False
    """No new requests are taken."""
    sharing = False
    """A worker lets others run, and then goes on with `batch`."""
    _busy = False
    _share_ns = SHARE_NS
    _dry = False
    """The last look found nothing, and is not to be repeated."""
    _spun = False
    """It took a while."""
    _slept = False
    """Since it last had work."""
    _taking = False
    _broken = False
    _suspended = False
    _drained: Callable[[], None] | None = None

    def __init__(
        self,
        start: QueueStart,
        loop: Loop,
        on_error: Callable[[DeviceQueue, PeerError], None],
        *,
        taken: bool = False,
        header_size: int = 0,
        ahead: Callable[[DeviceRing, int], bool] | None = None,
    ) -> None:
        super().__init__(start, loop)
        start.ring.peek(header_size)
        self.index = start.queue
        self.kick = start.kick
        self.batch: Iterator[Request] = iter(())
        """Requests taken from the ring and not given to a handler yet; all workers draw from it."""
        self._on_error = on_error
        self._taken = taken
        self._ahead = ahead
        self._peeks = header_size > 0
        self.handling = trio.CancelScope()
        """What the workers run in."""
        self._stop = trio.Event()
        self._room = trio.Event()
        self._cut = 0
        self._wakes_before = self.kick.statistics().wakes

    # Requests come.

    async def refill(self) -> None:
        """Publish what is done and wait for requests; returns with a batch, or to stop.

        Not always a checkpoint: it is one when the share of this queue is used up. Cancelled, it
        leaves what it took in `batch`.
        """
        self.attended = False
        yielded = False
        while not self.stopping:
            if self._dry:
                self._dry = False  # whoever ended the last batch has just looked
            else:
                try:
                    found = self.advance()
                    if found and self._ahead and not await self._run_ahead(self._ahead):
                        yielded = False
                        continue
                except PeerError as error:
                    await self._break(error)
                    return
                if self.late:
                    await self.share()
                if found:
                    return
                if self.ring.call_due:  # nothing was looked for, since the driver had to be called
                    continue
            if not self._spun and not yielded and self.kick.notifies:
                yielded = True  # a checkpoint stands for the spin: the driver may be in this loop
                await trio.lowlevel.checkpoint()
                continue
            await self._park()
            yielded = False

    def advance(self) -> bool:
        """Publish what is done and take the next batch, looking for it as long as is worthwhile.

        Sets `late`. Raises `PeerError`, again and again, for a ring that is broken.
        """
        window, ring, quiet = self.kick.window, self.ring, self._quiet()
        spin_ns = window.ns if quiet and window is not None else 0
        done, ended = self.done, self.ended
        published = ended or bool(done)
        try:
            flat = ring.cycle(done, None, spin_ns, ended)
        finally:
            self.ended = 0
            if done:
                del done[:]
        if ring.call_due:
            self._ring_call()
        elif published:
            self._suppressed += 1
        if ring.rejects:
            self._on_error(self, ring.take_reject())
        if flat:
            if self._ahead is None:
                self._accept(flat)
            else:
                self._begin()
            if spin_ns and window is not None:
                window.hit()
            elif quiet and window is not None and not self._slept:
                window.at_once()
            self._slept = False
        else:
            self._spun = spin_ns > 0
            self._set_busy(False)
            if ring.call_due:  # it was not looked for long, and a driver can keep it at that
                self.late = self._loop.clock() >= self._share_until
            elif quiet and window is not None:
                window.miss()  # also of one that is shut: it opens again now and then
        return bool(flat)

    def advance_in_line(self) -> bool:
        """Do `advance` for a worker that ended the current batch; False to leave it to `refill`."""
        if self.stopping or self._ahead is not None:
            return False
        try:
            found = self.advance()
        except PeerError:
            return False  # refill meets it too
        self._dry = not found and not self.ring.call_due
        return found

    def _quiet(self) -> bool:
        """Say whether looking for work would hold up nobody."""
        loop = self._loop
        return self.ring.concurrent and not loop.handling and loop.busy <= self._busy

    async def _run_ahead(self, ahead: Callable[[DeviceRing, int], bool]) -> bool:
        """Have the device end what it can of a batch, and of those behind it, with no `Request`.

        Lets others run when that is due. Returns whether some of what was taken is left, which is
        then the batch.
        """
        ring, window, more = cast("DeviceRing", self.ring), self.kick.window, True
        while more and not self.stopping:  # once it stops, nothing is taken any more
            if self.late:
                await self.share()
            more = ahead(ring, window.ns if window is not None and self._quiet() else 0)
            if ring.call_due:
                self._ring_call()
            if ring.rejects:
                self._on_error(self, ring.take_reject())
            self.late = self._loop.clock() >= self._share_until
        rest = ring.rest()
        if rest:
            self._accept(rest)
        return bool(rest)

    def _begin(self) -> int:
        now = self._loop.clock()
        self.late = now >= self._share_until
        if not self._busy:
            self._set_busy(True)
        return now

    def _accept(self, flat: list[int]) -> None:
        now = self._begin()
        self.count = self.left = len(flat) // 2
        self.in_order = not self._taken
        self._tokens = flat[::2]
        if self._peeks:
            heads = self.ring.heads(self.count)
            self.batch = map(Request, repeat(self), self._tokens, flat[1::2], heads)
        elif self.count == 1:
            self.batch = iter((Request(self, flat[0], flat[1]),))
        else:
            self.batch = map(Request, repeat(self), self._tokens, flat[1::2])
        self._looked = now
        self._hold_until = now + HOLD_NS

    def _gave_back(self) -> None:
        if self.ring.stalled:
            self._room.set()
            self._room = trio.Event()
        if self._taken:
            self.settle()

    async def _park(self) -> None:
        """Sleep until the driver kicks, or a completion makes room."""
        self._slept = True
        if self.ring.stalled and self.ring.in_flight:
            await self._room.wait()
            return
        try:
            if self.kick.notifies:
                await wait_for_work(self.kick, self.ring, look=False)
            else:
                await self.kick.wait()
        except trio.ClosedResourceError:  # the link is going; the server hears of it by itself
            await self._stop.wait()

    async def share(self) -> int:
        """Let others run, showing the driver what is done; returns the time."""
        self.late = False
        self.publish()
        self.sharing = True
        start = self._loop.clock()
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self.sharing = False
        now = self._loop.clock()
        alone = now - start < ALONE_NS
        self._share_ns = min(2 * self._share_ns, LONGEST_SHARE_NS) if alone else SHARE_NS
        self._share_until = now + self._share_ns
        return now

    async def _break(self, error: PeerError) -> None:
        self._set_busy(False)
        self._broken = True
        self._on_error(self, error)
        await self._stop.wait()

    def _set_busy(self, busy: bool) -> None:
        if busy is not self._busy:
            self._busy = busy
            self._loop.busy += 1 if busy else -1

    # What a device may use.

    async def take(self) -> Request:
        """Wait for the next request of a queue that is taken from; it is over with its `reply`.

        Cancelled, it has taken nothing. Raises `trio.BusyResourceError` if somebody waits already
        or the queue is none of the `taken_queues`, and `trio.ClosedResourceError` when the queue
        stops.
        """
        if self._taking or not self._taken:
            raise trio.BusyResourceError(f"somebody else takes from queue {self.index}")
        self._taking = True
        try:
            await trio.lowlevel.checkpoint()
            while (request := next(self.batch, None)) is None:
                if self.stopping:
                    raise trio.ClosedResourceError("the queue stops")
                await self.refill()
            self._set_busy(False)  # until the device takes the next, it may as well be asleep
            return request
        finally:
            self._taking = False

    def stop(self) -> None:
        """Take no new requests, and wake whoever waits for some."""
        self.stopping = True
        self._stop.set()
        self._room.set()
        if self._taking or not self._taken:
            self._ring(self.kick)

    def drain(self, drained: Callable[[], None], *, suspend: bool = False) -> None:
        """Stop, and call `drained` once, when all that was taken is completed.

        With `suspend` handlers are cancelled, and what they leave stays taken.
        """
        self._drained = drained
        self._suspended = suspend
        self.stop()
        if suspend:
            self.handling.cancel()
        if self._taken:
            self.settle()

    def settle(self) -> None:
        """Call who waits for the end of `drain`, if nothing is in flight or nobody handles it."""
        if self._suspended:
            self.publish()  # what handlers that were cancelled had done before
        drained, waits = self._drained, self._taken and not self._suspended
        if drained is None or (waits and self.ring.in_flight and not self._broken):
            return
        self._drained = None
        drained()

    def close(self) -> None:
        """End the queue, after which nothing here touches guest memory any more."""
        self._set_busy(False)
        self.batch = iter(())
        self.ring = EndedRing(self.ring)
        self._on_error = _ignore  # a request may be kept, which no garbage collector looks into
        self.stopping = True
        if self._taking:
            self.stop()

    def count_cut(self) -> None:
        """Count a write that did not fit."""
        self._cut += 1

    def statistics(self) -> QueueStatistics:
        """Return what happened since the driver started the queue."""
        ring = self.ring.statistics()
        return QueueStatistics(
            queue=self.index,
            requests=ring.popped,
            completed=ring.completed,
            in_flight=ring.in_flight,
            bytes_in=ring.bytes_in,
            bytes_out=ring.bytes_out,
            kicks=self.kick.statistics().wakes - self._wakes_before if self.kick.notifies else 0,
            calls=self._calls,
            suppressed=self._suppressed + ring.silent,
            ahead=ring.ahead,
            cut=self._cut,
            stale=ring.stale,
            rejected=ring.rejected,
            broken=ring.broken,
        )


def _ignore(queue: DeviceQueue, error: PeerError) -> None:
    """Take an error of a queue that ended."""
