"""Writes that cannot be made in line: those that wait at the same time share a trip to a thread.

A trip costs 100 us and more, a write to the page cache 2 us, and a file lets in one writer at a
time whatever is tried. Writes that have to be stable share one commit, too.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..._request import Request
    from ._image import Image

    RunBlocking = Callable[[Callable[[], None]], Awaitable[None]]

__all__ = ()


class _Write(msgspec.Struct, eq=False):
    """One request's data on its way to the image."""

    request: Request
    position: int
    size: int
    stable: bool
    woken: trio.Event
    taken: bool = False
    """A thread has it, and uses the guest's memory."""
    done: bool = False
    error: Exception | None = None


class Writer:
    """Makes the writes of one image, in batches; whoever comes to an idle one takes the batch."""

    def __init__(self, image: Image, run_blocking: RunBlocking) -> None:
        self._image = image
        self._run_blocking = run_blocking
        self._waiting: list[_Write] = []
        self._busy = False

    @trio.lowlevel.enable_ki_protection
    async def write(self, request: Request, position: int, size: int, *, stable: bool) -> None:
        """Move the next bytes of a request to the image, and to its storage if `stable`.

        Raises `OSError`. Cancelled, it either had no effect, or is over.
        """
        mine = _Write(request, position, size, stable, trio.Event())
        self._waiting.append(mine)
        try:
            while not mine.done:
                await (self._sleep(mine) if self._busy else self._take_batch())
        except BaseException:
            if mine in self._waiting:
                self._waiting.remove(mine)
                self._wake_next()
            raise
        if mine.error is not None:
            raise mine.error

    async def _sleep(self, mine: _Write) -> None:
        """Wait until it is done, or is to take the next batch."""
        mine.woken = trio.Event()
        try:
            await mine.woken.wait()
        except trio.Cancelled:
            if mine.taken:
                with trio.CancelScope(shield=True):
                    await mine.woken.wait()
            raise

    async def _take_batch(self) -> None:
        batch, self._waiting = self._waiting, []
        self._busy = True
        for one in batch:
            one.taken = True
        try:
            await self._run_blocking(partial(self._make, batch))
        finally:
            self._busy = False
            for one in batch:
                one.taken = False
                one.woken.set()
            # Cancelled before the thread began, the others are still to be made.
            self._waiting[:0] = [one for one in batch if not one.done]
            self._wake_next()

    def _wake_next(self) -> None:
        if self._waiting and not self._busy:
            self._waiting[0].woken.set()

    def _make(self, batch: list[_Write]) -> None:
        """Make the writes; runs in the thread. What goes wrong is noted, each with its write."""
        for one in batch:
            try:
                self._image.write(one.request, one.position, one.size)
            except Exception as error:  # noqa: BLE001
                one.error = error
        stable = [one for one in batch if one.stable and one.error is None]
        if stable:
            try:
                self._image.sync()
            except OSError as error:
                for one in stable:
                    one.error = error
        for one in batch:
            one.done = True
