"""How long to look before sleeping."""

from __future__ import annotations

import os
from typing import Final

__all__ = ("SpinWindow",)

# A wake of a sleeping waiter costs 25-60 us on a virtual machine (2-5 us on bare metal). Looking
# for as long as a wake costs is at most twice as dear as knowing when the work will come; a longer
# look only takes CPU from others.
MAXIMUM_NS: Final = 50_000
START_NS: Final = 20_000
# A look shorter than this is dearer to start than the chance it gives.
WORTHWHILE_NS: Final = 2_000
# A shut window would never learn that the peer became fast again, so it is opened wide now and
# then. Until it is shut again this costs 100 us of looking and five checkpoints: 0.5 us for each of
# this many sleeps, 5 % of the cheapest sleep (10 us).
RETRY_SLEEPS: Final = 256
# Work that is there before its waiter could sleep came within the checkpoint before a sleep, which
# takes 5-10 us: so long a look will find the next.
AT_ONCE_NS: Final = 10_000


class SpinWindow:
    """The time a waiter looks before it sleeps; doubles on a hit, halves on a miss.

    A window that shrinks below what is worthwhile goes to `minimum`; 0 is "sleep at once". After
    every `RETRY_SLEEPS` misses there it is set to `maximum` once. A `fixed` one only counts.
    Not synchronized: a window belongs to the one waiter of one doorbell.
    """

    __slots__ = ("_maximum", "_minimum", "_sleeps", "hits", "misses", "ns")

    def __init__(
        self,
        ns: int = START_NS,
        *,
        minimum: int = 0,
        maximum: int = MAXIMUM_NS,
        fixed: bool = False,
    ) -> None:
        if fixed:
            minimum = maximum = ns
        if not 0 <= minimum <= ns <= maximum:
            raise ValueError(f"need 0 <= minimum <= ns <= maximum, not {minimum}, {ns}, {maximum}")
        self.ns = ns
        """How long to look the next time; 0: not at all."""
        self._minimum = minimum
        self._maximum = maximum
        self._sleeps = 0
        self.hits = 0
        self.misses = 0

    def hit(self) -> None:
        """Note that a look found work."""
        self.hits += 1
        if self.ns < self._maximum:
            self.ns = min(2 * self.ns, self._maximum)

    def at_once(self) -> None:
        """Note that there was work before the waiter could sleep; a window that was shut opens.

        Else one that shut while the peer was idle would stay so for as long as the peer is fast:
        nobody sleeps then, and so nobody tries again.
        """
        if not self.ns:
            self.ns = min(AT_ONCE_NS, self._maximum)

    def miss(self) -> None:
        """Note that a look found nothing, or that the waiter sleeps without one."""
        self.misses += 1
        if self.ns > self._minimum:
            half = self.ns // 2
            self.ns = max(half, self._minimum) if half >= WORTHWHILE_NS else self._minimum
            return
        self._sleeps += 1
        if self._sleeps == RETRY_SLEEPS:
            self._sleeps = 0
            self.ns = self._maximum

    def __str__(self) -> str:
        if self._minimum == self._maximum:
            return f"{self.ns / 1000:g} us"
        return f"{self.ns / 1000:g} us ({self._minimum / 1000:g} to {self._maximum / 1000:g})"


def window_for_this_host(*, fixed: bool = False) -> SpinWindow:
    """Make the default window; shut for good if this host has one CPU.

    With one CPU the peer runs only while the waiter does not: no look can ever succeed. To a waiter
    that may use one of several it is so only if its peer may use no other, which nobody can tell
    from here: the window begins shut, and learns.
    """
    if usable_cpus() > 1:
        return SpinWindow(fixed=fixed)
    return SpinWindow(0, fixed=fixed or os.cpu_count() == 1)


def usable_cpus() -> int:
    """Count the CPUs that the calling thread may run on."""
    return len(os.sched_getaffinity(0))
