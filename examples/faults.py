"""Notifications that come late or never, and the way back."""

from __future__ import annotations

import trio
import trio.testing

from examples.upper import Upper
from paravirt.doorbells import Direct
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.transport import Faults, loopback


async def main() -> None:
    """Delay a kick, then lose one, and recover by a reset."""
    device = Upper()
    faults = Faults()
    link = loopback(device, doorbell=Direct, faults=faults)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        async with Driver(link) as driver:
            faults.delay_next("kick")
            print("a late kick:", await driver.request(b"late", reply_size=4))
            await trio.testing.wait_all_tasks_blocked()  # the device sleeps until it is kicked
            faults.drop_next("kick")
            with trio.move_on_after(0.1):
                await driver.request(b"lost", reply_size=4)
            await driver.reset()
            print("after a reset:", await driver.request(b"back", reply_size=4))
        link.close()
    print("injected:", faults.injected)


if __name__ == "__main__":
    trio.run(main)
