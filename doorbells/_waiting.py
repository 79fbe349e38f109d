"""The one sequence by which anybody waits for work: look, arm, full barrier, look again, sleep.

No wakeup is lost: the peer publishes, passes a full barrier and then reads whether it shall ring;
the waiter asks for a ring, passes a full barrier (inside `arm`) and then looks. One of the two
sees the other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._base import Doorbell, Watched


async def wait_for_work(bell: Doorbell, watched: Watched, *, look: bool = True) -> None:
    """Wait until `watched` has something to take; always a checkpoint, one caller at a time.

    May return with nothing to take (a spurious ring), so callers look and call again. With `look`
    false the caller has just looked for itself, and the first look is left out. Raises what
    `bell.wait` raises. Cancelled: disarmed, nothing consumed.
    """
    if not bell.notifies:
        while True:
            await bell.wait()
            if _look(bell, watched):
                return
    if look and bell.window is not None:
        if bell.window.ns:
            # Before the look, not after it: what the look finds is then handled at once.
            await trio.lowlevel.checkpoint()
            if _look(bell, watched):
                return
        else:
            bell.window.miss()
    try:
        if not watched.arm():
            await bell.wait()
            return
    finally:
        watched.disarm()
    await trio.lowlevel.checkpoint()


def wait_for_work_blocking(bell: Doorbell, watched: Watched, timeout: float | None = None) -> bool:
    """Wait in a thread without trio: True if there is (perhaps) something to take.

    False when `timeout` seconds are over. Raises what `bell.wait_blocking` raises.
    """
    if not bell.notifies:
        return _look_until_found(bell, watched, timeout)
    if bell.window is not None and _look(bell, watched):
        return True
    try:
        return watched.arm() or bell.wait_blocking(timeout)
    finally:
        watched.disarm()


def _look_until_found(bell: Doorbell, watched: Watched, timeout: float | None) -> bool:
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        bell.wait_blocking(0)  # lets others run, and is where a close is noticed
        if _look(bell, watched):
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False


def _look(bell: Doorbell, watched: Watched) -> bool:
    window = bell.window
    if window is None:
        return watched.pending()
    if watched.pending() or (window.ns and watched.spin(window.ns)):
        window.hit()
        return True
    window.miss()
    return False
