"""One virtqueue of a device while its driver runs it: requests come from the ring, completions go.

Completions are collected and published together: at each turn of the ring, after 50 us of handler
time, and at once when nobody is about to come by (`attended`).
"""

from __future__ import annotations

from array import array
from itertools import repeat
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import wait_for_work
from paravirt.transport import PeerError

from ._ended import EndedRing
from ._metrics import QueueStatistics
from ._request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from paravirt.doorbells import Doorbell
    from paravirt.transport import DeviceRing
    from paravirt.transport.link import QueueStart

    from ._loop import Loop

HOLD_NS = 50_000
"""Publish after this much handler time: a wake of the sleeping driver costs as much (25-60 us)."""
SHARE_NS = 50_000
"""Work between two checkpoints: how long other tasks, and other guests, wait for the loop."""
LONGEST_SHARE_NS = 8 * SHARE_NS
"""The same while nobody else wants the loop, doubled step by step: a checkpoint costs 5-10 us, a
tenth of the work at SHARE_NS."""
ALONE_NS = 20_000
"""A checkpoint that takes no longer than this ran nobody else worth stopping for."""
LOOK_NS = 10_000
"""Handler time between two looks at the clock, which costs 30-60 us a thousand: a fifth of HOLD_NS,
judged by the requests before, and no more than LOOK_REQUESTS of them in case they mislead."""
LOOK_REQUESTS = 32


class DeviceQueue:
    """A virtqueue as the device's end of a link gave it to the server.

    A device uses it by `take`, and only for its `taken_queues`.
    """

    count = 0
    """How many requests the last batch had."""
    left = 0
    """How many of them at most nobody has drawn."""
    ended = 0
    """Requests ended in order, as the ring gave them, since the last publication."""
    stride = 1
    """After how many requests to look at the clock."""
    in_order = True
    """None of the batch was ended one by one so far; what ended in order needs no token."""
    attended = False
    """Somebody runs, or will before the loop sleeps, who then publishes what is done."""
    stopping = False
    """No new requests are taken."""
    late = False
    """The share of this queue is used up: let others run."""
    sharing = False
    """A worker lets others run, and then goes on with `batch`."""
    _busy = False
    _share_until = 0
    _share_ns = SHARE_NS
    _hold_until = 0
    _looked = 0
    _dry = False
    """The last look found nothing, and is not to be repeated."""
    _spun = False
    """It took a while."""
    _taking = False
    _broken = False
    _drained: Callable[[], None] | None = None

    def __init__(
        self,
        start: QueueStart,
        loop: Loop,
        on_error: Callable[[DeviceQueue, PeerError], None],
        *,
        taken: bool = False,
        header_size: int = 0,
    ) -> None:
        start.ring.peek(header_size)
        self.index = start.queue
        self.ring: DeviceRing | EndedRing = start.ring
        self.kick = start.kick
        self.call = start.call
        self.batch: Iterator[Request] = iter(())
        """Requests taken from the ring and not given to a handler yet; all workers draw from it."""
        self.done = array("Q")
        """Tokens of what is to be given back, but for what ended in order."""
        self._tokens: list[int] = []
        self._loop = loop
        self._on_error = on_error
        self._taken = taken
        self._peeks = header_size > 0
        self._stop = trio.Event()
        self._room = trio.Event()
        self._calls = self._suppressed = self._cut = 0
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
        loop, window, ring = self._loop, self.kick.window, self.ring
        quiet = ring.concurrent and not loop.handling and loop.busy <= self._busy
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
            self._accept(flat)
            if spin_ns and window is not None:
                window.hit()
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
        if self.stopping:
            return False
        try:
            found = self.advance()
        except PeerError:
            return False  # refill meets it too
        self._dry = not found and not self.ring.call_due
        return found

    def _accept(self, flat: list[int]) -> None:
        now = self._loop.clock()
        self.late = now >= self._share_until
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
        if not self._busy:
            self._set_busy(True)

    async def _park(self) -> None:
        """Sleep until the driver kicks, or a completion makes room."""
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

    # Completions go.

    def complete(self, token: int) -> None:
        """Give a request back with the bytes written; published now or soon."""
        self.done.append(token)
        if not self.attended:
            self.publish()

    def end(self, drawn: int, in_order: bool) -> bool:
        """Note that so many requests of the batch, or all that were left, were drawn and are over.

        `in_order` completes them here. Returns whether the batch is over too.
        """
        if drawn >= self.left:
            drawn = self.left
        if in_order:
            self.ended += drawn
        self.left -= drawn
        return not self.left

    def leave_order(self, request: Request) -> bool:
        """End those before this request in order, and no more of the batch; returns False."""
        self.ended += self._tokens.index(request.id) - self.count + self.left
        self.in_order = False
        return False

    def look(self, handled: int) -> int:
        """Publish if it is time; `handled` requests ended since the last look.

        Returns after how many more to look again, which holds for the next batch too.
        """
        now = self._loop.clock()
        each = (now - self._looked) // handled
        self._looked = now
        if now >= self._hold_until:
            self.publish()
            self.late = now >= self._share_until
        self.stride = max(1, min(LOOK_REQUESTS, LOOK_NS // (each + 1)))
        return self.stride

    def publish(self) -> None:
        """Show the completions to the driver, with at most one call."""
        if not (self.done or self.ended):
            return
        call = self.ring.complete(self.done, None, self.ended)
        self.ended = 0
        del self.done[:]
        self._hold_until = self._loop.clock() + HOLD_NS
        if call:
            self._ring_call()
        else:
            self._suppressed += 1
        if self.ring.stalled:
            self._room.set()
            self._room = trio.Event()
        if self._taken:
            self.settle()

    def _ring_call(self) -> None:
        self._calls += 1
        self._ring(self.call)

    def _ring(self, bell: Doorbell) -> None:
        try:
            bell.ring()
        except trio.ClosedResourceError:
            pass  # nobody is left to hear it

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

    def drain(self, drained: Callable[[], None]) -> None:
        """Stop, and call `drained` once, when all that was taken is completed."""
        self._drained = drained
        self.stop()
        if self._taken:
            self.settle()

    def settle(self) -> None:
        """Call who waits for the end of `drain`, if nothing is in flight or nobody handles it."""
        drained = self._drained
        if drained is None or (self._taken and self.ring.in_flight and not self._broken):
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
            suppressed=self._suppressed,
            cut=self._cut,
            stale=ring.stale,
            rejected=ring.rejected,
            broken=ring.broken,
        )


def _ignore(queue: DeviceQueue, error: PeerError) -> None:
    """Take an error of a queue that ended."""
