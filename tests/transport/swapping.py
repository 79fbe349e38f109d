"""A kick that is changed, with a driver that moves over when the test says so."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from paravirt.doorbells import Direct
from paravirt.transport import SwappableKick, SwapRefused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from paravirt.doorbells import Doorbell


class SlowDriver:
    """A `DriverEnd` that rings what it was told last only after `move`, as a guest that is idle."""

    def __init__(self) -> None:
        self.admitted: list[Doorbell] = []
        self.told: Doorbell | None = None
        self.uses: Doorbell | None = None
        self.refuses = False

    def admit(self, bell: Doorbell) -> None:
        if self.refuses:
            raise SwapRefused("this driver takes no other")
        self.admitted.append(bell)

    def tell(self, bell: Doorbell) -> None:
        assert bell in self.admitted
        if self.told is None:
            self.uses = bell
        self.told = bell

    def moved(self) -> bool:
        return self.uses is self.told

    def drop(self, bell: Doorbell) -> None:
        assert bell is not self.uses, "it was taken away while it could be rung"
        self.admitted.remove(bell)

    def move(self) -> None:
        """Read what to ring from now on."""
        self.uses = self.told

    def kick(self) -> None:
        """Ring by what was read last."""
        assert self.uses in self.admitted
        assert self.uses is not None
        self.uses.ring()


class Swaps:
    """A kick with a slow driver, and all doorbells that it ever had."""

    def __init__(self) -> None:
        self.bells = [Direct()]
        self.kick = SwappableKick(self.bells[0])
        self.driver = SlowDriver()
        self.kick.enrol(self.driver)
        self.calls = 0

    def make(self) -> Doorbell:
        self.bells.append(Direct())
        return self.bells[-1]

    async def swap(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Change the doorbell; started once the driver is told and called."""

        def call() -> None:
            self.calls += 1
            task_status.started()

        await self.kick.swap(self.make, call)

    @property
    def open(self) -> list[Doorbell]:
        """The doorbells that are not closed."""
        return [bell for bell in self.bells if not bell.statistics().closed]


@asynccontextmanager
async def under_way() -> AsyncGenerator[tuple[Swaps, trio.Nursery], None]:
    """Begin to change a doorbell, with the driver told and not moved."""
    swaps = Swaps()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(swaps.swap)
            yield swaps, nursery
    finally:
        swaps.kick.close()
