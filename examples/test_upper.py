"""The least test: a device and its driver in one process, no virtual machine."""

from __future__ import annotations

import trio

from examples.upper import Upper
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.transport import loopback


async def test_upper(nursery: trio.Nursery) -> None:
    link = loopback(device := Upper())
    await nursery.start(serve, device, link)
    async with Driver(link) as driver:
        assert await driver.request(b"hello", reply_size=5) == b"HELLO"
