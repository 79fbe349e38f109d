"""The same device and driver with each doorbell: one keyword."""

from __future__ import annotations

import trio

from examples.upper import Upper
from paravirt.doorbells import KINDS, Doorbell
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.transport import loopback


async def count_rings(kind: type[Doorbell]) -> None:
    """Send a thousand requests and count how often each side had to be woken."""
    device = Upper()
    link = loopback(device, doorbell=kind)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        async with Driver(link) as driver:
            replies = await driver.request_many([(b"hello", 5)] * 1000)
            assert replies == [b"HELLO"] * 1000
            kicks = driver.statistics()[0].kicks
            calls = device.statistics().queues[0].calls
            print(f"{kind.name:9} {len(replies)} requests, {kicks} kicks, {calls} calls")
        link.close()


async def main() -> None:
    """Try one kind after the other."""
    for kind in KINDS:
        await count_rings(kind)


if __name__ == "__main__":
    trio.run(main)
