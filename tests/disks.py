"""Disks for tests: images, executors, and a driver attached to a device inside one trio run."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

import trio

from paravirt.doorbells import Direct
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.transport import loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from paravirt.hostside import Device

DriverT = TypeVar("DriverT", bound=Driver)


def image(path: Path, data: bytes | int) -> Path:
    """Make an image of these bytes, or of this many zeroes, and return its path."""
    path.write_bytes(data if isinstance(data, bytes) else bytes(data))
    return path


def content(path: Path) -> bytes:
    """Return what an image holds."""
    return path.read_bytes()


def always(answer: bool) -> Callable[[int], bool]:
    """Stand in for a question about a descriptor."""

    def say(fd: int) -> bool:
        del fd
        return answer

    return say


async def in_line(function: Callable[[], None]) -> None:
    """Run what blocks where it is: nothing then depends on a thread's timing."""
    function()


class Watched:
    """An executor that notes what it was given and runs it in line."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    async def __call__(self, function: Callable[[], None]) -> None:
        self.jobs.append(function)
        function()


class Gate:
    """An executor that holds its jobs back, as a thread that waits for a disk would.

    It cannot be cancelled under way: a thread cannot, either.
    """

    def __init__(self) -> None:
        self.jobs = 0
        self.entered = trio.Event()
        self.open = trio.Event()

    async def __call__(self, function: Callable[[], None]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.jobs += 1
        self.entered.set()
        with trio.CancelScope(shield=True):
            await self.open.wait()
        function()


@contextlib.asynccontextmanager
async def attached(device: Device, driver: type[DriverT]) -> AsyncGenerator[DriverT, None]:
    """Serve the device in loopback, and drive it."""
    link = loopback(device, doorbell=Direct)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        async with driver(link) as opened:
            yield opened
        nursery.cancel_scope.cancel()
