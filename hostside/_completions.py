"""Where a queue's completions are collected until they are shown to the driver.

Together: at each turn of the ring, after 50 us of handler time, and at once when nobody is about to
come by (`attended`).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import trio

from ._pace import HOLD_NS, LOOK_NS, LOOK_REQUESTS

if TYPE_CHECKING:
    from paravirt.doorbells import Doorbell
    from paravirt.transport import DeviceRing
    from paravirt.transport.link import QueueStart

    from ._ended import EndedRing
    from ._loop import Loop
    from ._request import Request

__all__ = ()  # of use to this room only


class Completions:
    """What was done with the requests of one queue's batch, and is to be given back."""

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
    late = False
    """The share of this queue is used up: let others run."""
    _calls: int = 0
    _suppressed: int = 0
    _share_until = 0
    _hold_until = 0
    _looked = 0

    def __init__(self, start: QueueStart, loop: Loop) -> None:
        self.ring: DeviceRing | EndedRing = start.ring
        self.call = start.call
        self.done = array("Q")
        """Tokens of what is to be given back, but for what ended in order."""
        self._tokens: list[int] = []
        self._loop = loop

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
        self._gave_back()

    def _gave_back(self) -> None:
        """Look who waits for that."""

    def _ring_call(self) -> None:
        self._calls += 1
        self._ring(self.call)

    def _ring(self, bell: Doorbell) -> None:
        try:
            bell.ring()
        except trio.ClosedResourceError:
            pass  # nobody is left to hear it
