"""Any order of rings, waits, cancellations and closes, against a model of a few lines."""

from __future__ import annotations

import contextlib
import os
from typing import Literal, get_args

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from paravirt.doorbells import KINDS, Doorbell

Step = Literal["ring", "wait", "take", "cancel", "settle", "close"]
STEPS = st.lists(st.sampled_from(get_args(Step)), max_size=30)


class Play:
    """A doorbell, at most one good waiter, and what the contract says about both."""

    def __init__(self, bell: Doorbell, nursery: trio.Nursery) -> None:
        self.bell = bell
        self.nursery = nursery
        self.scope = trio.CancelScope()
        self.waiting = False
        self.owed = False  # a ring since the last return
        self.closed = False

    async def wait(self) -> None:
        """Wait once in a task of its own."""
        with self.scope:
            try:
                await self.bell.wait()
            except trio.ClosedResourceError:
                assert self.closed
            else:
                assert self.owed or not self.bell.notifies
                self.owed = False
        self.waiting = False

    async def step(self, step: Step) -> None:
        match step:
            case "ring":
                self.ring()
            case "wait" if not self.waiting:
                self.waiting = True
                self.scope = trio.CancelScope()
                self.nursery.start_soon(self.wait)
            case "wait":
                await self.second_wait()
            case "take":
                self.take()
            case "cancel":
                self.scope.cancel()
            case "settle":
                await self.settle()
            case "close":
                self.closed = True
                self.bell.close()

    def ring(self) -> None:
        if self.closed:
            with pytest.raises(trio.ClosedResourceError):
                self.bell.ring()
        else:
            self.bell.ring()
            self.owed = True

    def take(self) -> None:
        """Take a ring without sleeping, where nobody else waits."""
        if self.closed or self.waiting:
            return
        assert self.bell.wait_blocking(0) == (self.owed or not self.bell.notifies)
        self.owed = False

    async def second_wait(self) -> None:
        """Let the first waiter sit down, then collide with it if it still sits there."""
        await self.settle()
        if self.waiting:
            with pytest.raises(trio.BusyResourceError):
                await self.bell.wait()

    async def settle(self) -> None:
        """Let everything happen that can: then nobody may sleep on a ring or on a closed bell."""
        await trio.testing.wait_all_tasks_blocked()
        statistics = self.bell.statistics()

        assert statistics.waiting == self.waiting
        assert not (self.waiting and (self.owed or self.closed or not self.bell.notifies))


async def play(kind: type[Doorbell], steps: list[Step]) -> None:
    before = open_descriptors()
    async with trio.open_nursery() as nursery:
        with contextlib.closing(kind()) as bell:
            game = Play(bell, nursery)
            for step in steps:
                await game.step(step)
            await game.settle()
            await game.step("close")
            await game.settle()

    assert open_descriptors() == before


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@given(steps=STEPS)
def test_any_order_of_events_keeps_the_contract(kind: type[Doorbell], steps: list[Step]) -> None:
    trio.run(play, kind, steps)
