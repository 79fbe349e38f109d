"""A disk image, served to a driver in the same process."""

from __future__ import annotations

import tempfile

import trio

from paravirt.guestside.block import BlockDriver
from paravirt.hostside import serve
from paravirt.hostside.devices.block import Block
from paravirt.transport import loopback


async def main() -> None:
    """Write a sector, commit it, and read it again."""
    with tempfile.NamedTemporaryFile(suffix=".img") as image:
        image.truncate(1 << 20)
        with Block(image.name, serial="demo-disk") as disk:
            link = loopback(disk)
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, disk, link)
                async with BlockDriver(link) as driver:
                    await driver.write(8, b"paravirt" * 64)
                    await driver.flush()
                    sector = await driver.read(8, 512)
                    print(await driver.get_id(), driver.capacity, sector[:8])
                link.close()
        assert image.read()[8 * 512 : 9 * 512] == sector


if __name__ == "__main__":
    trio.run(main)
