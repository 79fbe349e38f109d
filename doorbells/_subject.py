"""A doorbell under check: ringing it as the other side does, and waiting with an end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

import trio
import trio.testing

from ._base import Doorbell

__all__ = ()

MANY: Final = 50
Ringer = Callable[[Doorbell], None]


def expect(condition: bool, otherwise: str) -> None:
    """Assert, under `python -O` as well."""
    if not condition:
        raise AssertionError(otherwise)


class Subject:
    """A doorbell under check, and how to ring it."""

    def __init__(self, bell: Doorbell, ringer: Ringer | None, patience: float) -> None:
        self.bell = bell
        self.patience = patience
        self._ringer = ringer

    async def ring(self) -> None:
        """Ring as the other side does."""
        if self._ringer is None:
            self.bell.ring()
        else:
            await trio.to_thread.run_sync(self._ringer, self.bell)

    def ring_here(self) -> None:
        """Ring as the other side does, from this thread."""
        if self._ringer is None:
            self.bell.ring()
        else:
            self._ringer(self.bell)

    async def must_return(self, otherwise: str) -> None:
        """Wait, and fail if that does not come back."""
        with trio.move_on_after(self.patience) as scope:
            await self.bell.wait()
        expect(not scope.cancelled_caught, otherwise)

    @contextlib.asynccontextmanager
    async def sleeper(self) -> AsyncGenerator[Sleeper, None]:
        """Run a task that waits once; it sleeps by now, unless the doorbell never does."""
        async with trio.open_nursery() as nursery:
            sleeper = await self._start_sleeper(nursery)
            for _ in range(2 * MANY):
                if self.bell.notifies and sleeper.returned:
                    sleeper = await self._start_sleeper(nursery)
            yield sleeper
            nursery.cancel_scope.cancel()

    async def _start_sleeper(self, nursery: trio.Nursery) -> Sleeper:
        sleeper = Sleeper(self)
        nursery.start_soon(sleeper.run)
        await trio.testing.wait_all_tasks_blocked()
        return sleeper

    async def close(self) -> None:
        """Close, with the shape of `ring`."""
        self.bell.close()

    async def refuses_threads(self) -> bool:
        """Ring from another thread; tell whether that was refused."""
        try:
            await trio.to_thread.run_sync(self.bell.ring)
        except RuntimeError:
            return True
        return False


class Sleeper:
    """One call of `wait` in a task of its own."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._done = trio.Event()
        self.scope = trio.CancelScope()
        self.error: Exception | None = None
        self.returned = False

    async def run(self) -> None:
        """Wait once and keep the outcome."""
        try:
            with self.scope:
                await self._subject.bell.wait()
                self.returned = True
        except (trio.BusyResourceError, trio.ClosedResourceError) as error:
            self.error = error
        finally:
            self._done.set()

    async def must_end(self, otherwise: str) -> None:
        """Wait until `wait` has returned, raised or been cancelled."""
        with trio.move_on_after(self._subject.patience):
            await self._done.wait()
        expect(self._done.is_set(), otherwise)

    async def must_return(self, otherwise: str) -> None:
        """Wait until `wait` has returned."""
        await self.must_end(otherwise)
        expect(self.returned, f"{otherwise}, it raised {self.error!r}")
