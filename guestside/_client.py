"""The driver's work on one queue, without any waiting: requests in, replies out."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import trio

from paravirt.transport import PeerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from paravirt.doorbells import Watched
    from paravirt.transport import DriverRing
    from paravirt.transport.link import DriverLink

    from ._pool import BufferPool

__all__ = ("DeviceNeedsReset",)


class DeviceNeedsReset(PeerError):
    """The device set DEVICE_NEEDS_RESET: what was asked may be done or not (virtio 1.4, 2.1.2)."""


class Outstanding(msgspec.Struct, gc=False, eq=False):
    """A request that the device has, or has answered."""

    block: int
    """Address of its buffers: first the reply's, then the request's."""
    size: int
    reply: bytes | None = None
    """What the device wrote; None while it has the request."""
    dropped: bool = False
    """Nobody wants the reply. The buffers stay the device's until it returns them."""
    submitted: bool = False
    """Made by `submit`, so its reply is for `reap`."""
    id: int = 0
    task: trio.lowlevel.Task | None = None
    """Who sleeps until it is answered."""


class _Polled:
    """A ring under a doorbell that is never rung: also shows what else ends a wait."""

    def __init__(self, client: Client, link: DriverLink) -> None:
        self._client = client
        self._link = link
        ring = client.ring
        self.arm, self.disarm, self.spin = ring.arm, ring.disarm, ring.spin

    def pending(self) -> bool:
        client = self._client
        return client.ring.pending() or self._link.needs_reset or client.failure is not None


class Client:
    """One queue as its driver sees it."""

    def __init__(self, ring: DriverRing, pool: BufferPool, link: DriverLink, queue: int) -> None:
        self.ring = ring
        self.kick = link.kick(queue)
        self.call = link.call(queue)
        self.watched: Watched = ring if self.call.notifies else _Polled(self, link)
        """What to look at while waiting at `call`."""
        self.failure: Exception | None = None
        """Why nothing will be answered any more, until a reset."""
        self.reaper: trio.lowlevel.Task | None = None
        """Who waits at the doorbell, and reaps for all."""
        self.sleeping: dict[trio.lowlevel.Task, int | None] = {}
        """Who waits for somebody else to reap, in order of arrival; for those who want room, the
        value of `returned` when there was none.
        """
        self.returned = 0
        """Requests that the device gave back."""
        self.starved = False
        """What kept `submit` from placing a request was the memory, not the ring."""
        self.finished: list[Outstanding] = []
        """Answers to what was made by `submit`."""
        self.submitted = 0
        """Requests made by `submit` and not given out by `reap`."""
        self.waiting = 0
        """Callers inside `request` or `request_many`."""
        self.requests = self.kicks = 0
        self._pool = pool
        self._link = link
        self._pending: dict[int, Outstanding] = {}
        self._ids = 0

    def check_sizes(self, requests: Iterable[tuple[bytes, int]]) -> None:
        """Raise `ValueError` for a request that could never be sent."""
        most = min(self._pool.largest, 0xFFFFFFFF)  # 2.7.5.2: a chain has less than 2^32 bytes
        single = self.ring.geometry.size == 1
        for data, reply_size in requests:
            if reply_size < 0:
                raise ValueError(f"a reply of {reply_size} bytes")
            if ((reply_size + 63) & ~63) + len(data) > most:
                raise ValueError(
                    f"{len(data)} bytes and a reply of {reply_size} are more than the {most} that"
                    " the shared memory has room for"
                )
            if single and data and reply_size:  # 2.7.5.3.1, indirect or not
                raise ValueError("data and a reply: that takes a queue of at least 2")

    def submit(self, requests: Sequence[tuple[bytes, int]]) -> list[Outstanding]:
        """Offer as many requests as fit, publish them, and kick if the device wants it.

        Their sizes were checked before. Raises what ended the queue, if it ended.
        """
        self.check()
        room = self.ring.room
        self.starved = False
        if not room:
            return []
        made: list[Outstanding] = []
        heads: list[int] = []
        try:
            heads = self.ring.add_many(self._place(requests[:room], made))
        finally:
            for left in made[len(heads) :]:
                self._pool.release(left.block, left.size)
            del made[len(heads) :]
        self._pending.update(zip(heads, made, strict=True))
        self.requests += len(made)
        self.publish()
        return made

    def _place(
        self, requests: Sequence[tuple[bytes, int]], made: list[Outstanding]
    ) -> list[tuple[int, int, int, int]]:
        """Copy requests into the pool for as long as it has room; returns their buffers."""
        buffers: list[tuple[int, int, int, int]] = []
        memory, base = self._pool.bytes, self._pool.address
        for data, reply_size in requests:
            length = len(data)
            gap = (reply_size + 63) & ~63  # the reply first: a page of data is then a whole page
            size = gap + length
            block = self._pool.allocate(size or 1)
            if block is None:
                self.starved = not made
                break
            made.append(Outstanding(block, size or 1))
            start = block - base + gap
            memory[start : start + length] = data
            buffers.append((block + gap, length, block, reply_size))
        return buffers

    def publish(self) -> None:
        """Show what was added to the device, and kick it if it wants that."""
        if self.ring.publish():
            self.kicks += 1
            try:
                self.kick.ring()
            except trio.ClosedResourceError:
                self.fail(trio.BrokenResourceError("the device is not served any more"))

    def reap(self) -> list[Outstanding]:
        """Take what the device returned; wakes those who sleep for it.

        Raises `RingBroken`, and `DeviceNeedsReset`: replies are then not to be relied on (2.1.2).
        """
        flat = self.ring.reap()
        if self._link.needs_reset:
            raise DeviceNeedsReset("the device needs a reset", clause="2.1.2")
        taken: list[Outstanding] = []
        memory, base = self._pool.bytes, self._pool.address
        for head, length in zip(flat[::2], flat[1::2], strict=True):
            one = self._pending.pop(head)
            if not one.dropped:
                start = one.block - base
                one.reply = bytes(memory[start : start + length])
                if one.submitted:
                    self.finished.append(one)
                elif one.task is not None:
                    self.wake(one.task)
            self._pool.release(one.block, one.size)
            taken.append(one)
        self.returned += len(taken)
        if taken and self.sleeping:
            wanting = [task for task, seen in self.sleeping.items() if seen is not None]
            for task in wanting[: len(taken)]:
                self.wake(task)
        return taken

    def pass_on(self) -> None:
        """Wake the next who wants room, after one who was woken for it found too little."""
        if not self.ring.room:
            return
        for task, seen in self.sleeping.items():
            if seen is not None and seen != self.returned:
                self.wake(task)
                return

    def note_submitted(self, one: Outstanding) -> int:
        """Keep the reply of a request for `take_finished`; returns its number."""
        self._ids += 1
        one.submitted = True
        one.id = self._ids
        self.submitted += 1
        return one.id

    def take_finished(self) -> list[tuple[int, bytes]]:
        """Return number and reply of what was submitted and is answered."""
        finished = [(one.id, one.reply or b"") for one in self.finished]
        self.finished.clear()
        self.submitted -= len(finished)
        return finished

    def wake(self, task: trio.lowlevel.Task) -> None:
        """Let a sleeper run; no effect if it does not sleep."""
        if task in self.sleeping:
            del self.sleeping[task]
            trio.lowlevel.reschedule(task)

    def hand_over(self) -> None:
        """Make the first sleeper the reaper."""
        self.reaper = next(iter(self.sleeping), None)
        if self.reaper is not None:
            self.wake(self.reaper)

    def fail(self, error: Exception) -> None:
        """End the queue: everybody who waits, or comes later, gets this error."""
        if self.failure is None:
            self.failure = error
        if self.reaper is not None:
            with suppress(trio.ClosedResourceError):
                self.call.ring()
        for task in list(self.sleeping):
            self.wake(task)

    def check(self) -> None:
        """Raise what ended the queue, if it ended."""
        if self.failure is not None:
            raise copy.copy(self.failure)  # for each its own: raising one again makes it longer
