"""One script, played against a device over a loopback with one kind of doorbell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from paravirt.doorbells import Direct
from paravirt.guestside.block import BlockDriver, SyncBlockDriver
from paravirt.hostside import serve
from paravirt.transport import loopback

from ._script import Flush, Read, Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from paravirt.doorbells import Doorbell
    from paravirt.hostside.devices.block import Block
    from paravirt.transport.link import DriverLink

    from ._script import Script

    MakeScript = Callable[[int, Callable[[], "Counts"]], Script]


class Counts(msgspec.Struct, frozen=True):
    """What went over the ring and its two doorbells."""

    requests: int
    kicks: int
    calls: int


async def play(device: Block, kind: type[Doorbell], make_script: MakeScript) -> None:
    """Serve a device, and follow the script in a driver: in a thread of its own if it may be.

    `make_script` gets the capacity of the disk, and a function that counts. Raises what the driver
    and the server raise, in groups.
    """
    link = loopback(device, doorbell=kind)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        try:
            if kind is Direct:
                await _inside(device, link, make_script)
            else:
                await trio.to_thread.run_sync(_outside, device, link, make_script)
        finally:
            link.close()


async def _inside(device: Block, link: DriverLink, make_script: MakeScript) -> None:
    async with BlockDriver(link) as driver:
        script = make_script(driver.capacity, lambda: _count(device, driver))
        replies: list[bytes] | None = None
        while (asked := _next(script, replies)) is not None:
            replies = []
            match asked:
                case Read(ranges):
                    replies = await driver.read_many(ranges)
                case Write(parts):
                    await driver.write_many(parts)
                case Flush():
                    await driver.flush()


def _outside(device: Block, link: DriverLink, make_script: MakeScript) -> None:
    with SyncBlockDriver(link) as driver:
        script = make_script(driver.capacity, lambda: _count(device, driver))
        replies: list[bytes] | None = None
        while (asked := _next(script, replies)) is not None:
            replies = []
            match asked:
                case Read(ranges):
                    replies = driver.read_many(ranges)
                case Write(parts):
                    driver.write_many(parts)
                case Flush():
                    driver.flush()


def _next(script: Script, replies: list[bytes] | None) -> Read | Write | Flush | None:
    try:
        return next(script) if replies is None else script.send(replies)
    except StopIteration:
        return None


def _count(device: Block, driver: BlockDriver | SyncBlockDriver) -> Counts:
    """Count since the driver started; from any thread, since all that is read is a number."""
    sent = driver.statistics()
    served = device.statistics().queues
    return Counts(
        requests=sum(queue.requests for queue in sent),
        kicks=sum(queue.kicks for queue in sent),
        calls=sum(queue.calls for queue in served),
    )
