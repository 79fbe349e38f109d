"""What a device costs that nobody uses."""

from __future__ import annotations

import resource
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import trio
import trio.testing

from paravirt.doorbells import Adaptive
from paravirt.guestside import Driver
from paravirt.hostside import Device, Request, serve
from paravirt.transport import Loopback, loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

DEVICES = 64
IDLE_SECONDS = 1.0


class Idle(Device):
    """A device with one queue of the usual size."""

    device_id = 42
    queue_sizes = (256,)

    def handle(self, request: Request) -> None:
        """Let the request be completed with nothing."""


async def idle_devices() -> Mapping[str, float]:
    """Start many devices with drivers; returns KiB each, and the CPU of all while none is used."""
    links: list[Loopback] = []
    async with trio.open_nursery() as nursery, AsyncExitStack() as drivers:
        await _start(nursery, drivers, links)  # what is paid once
        before = _resident_kib()
        for _ in range(DEVICES):
            await _start(nursery, drivers, links)
        grown = _resident_kib() - before
        await trio.testing.wait_all_tasks_blocked()
        start = time.process_time()
        await trio.sleep(IDLE_SECONDS)
        spent = time.process_time() - start
        await drivers.aclose()
        nursery.cancel_scope.cancel()
    for link in links:
        link.close()
    return {"rss_kib": grown / DEVICES, "cpu_percent": 100 * spent / IDLE_SECONDS}


async def _start(nursery: trio.Nursery, drivers: AsyncExitStack, links: list[Loopback]) -> None:
    device = Idle()
    link = loopback(device, doorbell=Adaptive)
    links.append(link)
    await nursery.start(serve, device, link)
    driver = await drivers.enter_async_context(Driver(link))
    await driver.request(b"once")


def _resident_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024
