"""A driver without async, in a thread of its own."""

from __future__ import annotations

import trio

from examples.upper import Upper
from paravirt.guestside import SyncDriver
from paravirt.hostside import serve
from paravirt.transport import loopback
from paravirt.transport.link import DriverLink


def client(link: DriverLink) -> None:
    """Send one request, then many that keep the queue full."""
    with SyncDriver(link) as driver:
        print(driver.request(b"hello", reply_size=5))
        replies = driver.request_many((b"number %d" % i, 16) for i in range(1000))
        print(len(replies), replies[-1])


async def main() -> None:
    """Serve the device here, run the client in a thread."""
    device = Upper()
    link = loopback(device)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        await trio.to_thread.run_sync(client, link)
        link.close()


if __name__ == "__main__":
    trio.run(main)
