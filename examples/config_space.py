"""A device with a configuration space that changes while the driver looks."""

from __future__ import annotations

import msgspec
import trio

from examples.upper import Upper
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.transport import U16, U32, ConfigSpace, loopback


class Space(ConfigSpace, frozen=True):
    """The fields in the order of their bytes."""

    version: U16 = 1
    longest: U32 = 4096


async def main() -> None:
    """Change a field, and see the driver notice."""
    device = Upper()
    device.config = Space()
    link = loopback(device)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        async with Driver(link) as driver:
            print("before:", await driver.read_config(Space))
            device.config = msgspec.structs.replace(Space(), longest=8192)
            await driver.config_changed()
            print("after: ", await driver.read_config(Space))
        link.close()


if __name__ == "__main__":
    trio.run(main)
