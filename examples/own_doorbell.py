"""A doorbell of your own: any class that keeps the contract will do."""

from __future__ import annotations

import trio

from examples.upper import Upper
from paravirt.doorbells import EventFd
from paravirt.doorbells.testing import check_doorbell
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.transport import loopback


class Counted(EventFd):
    """An eventfd that counts its rings."""

    name = "counted"
    rung = 0

    def ring(self) -> None:
        self.rung += 1
        super().ring()


async def main() -> None:
    """Check the contract, then use the doorbell for kicks."""
    await check_doorbell(Counted)
    kick = Counted()
    link = loopback(device := Upper(), doorbell=lambda: kick, call_doorbell=EventFd)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        async with Driver(link) as driver:
            print(await driver.request(b"hello", reply_size=5), "after", kick.rung, "kick")
        link.close()


if __name__ == "__main__":
    trio.run(main)
