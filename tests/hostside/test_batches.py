"""Handlers of whole batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from paravirt.hostside import Device

from .serving import served, settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from paravirt.hostside import Request


def names(count: int) -> list[bytes]:
    return [b"%d" % i for i in range(count)]


class Batches(Device):
    """Keeps what came together; waits for the gate of a batch if there is one."""

    device_id = 42
    queue_sizes = (16,)

    def __init__(self) -> None:
        self.seen: list[list[bytes]] = []
        self.gate: trio.Event | None = None

    async def handle_batch(self, requests: Sequence[Request]) -> None:
        data = [request.read() for request in requests]
        self.seen.append(data)
        if self.gate is not None:
            requests[0].reply(b"first")
            await self.gate.wait()
        for request in requests:
            if request.open:
                request.write(b"done")


async def test_a_batch_is_what_was_there_at_once(autojump_clock: MockClock) -> None:
    device = Batches()
    async with served(device) as it:
        await settled()
        await it.driver.request_many([(name, 8) for name in names(16)])

    assert device.seen == [names(16)]


async def test_one_batch_of_a_queue_at_a_time(autojump_clock: MockClock) -> None:
    device = Batches()
    device.gate = trio.Event()
    async with served(device) as it:
        await settled()
        it.driver.submit(b"a", 8)
        it.driver.submit(b"b", 8)
        await settled()
        it.driver.submit(b"c", 8)
        await settled()
        assert device.seen == [[b"a", b"b"]]
        with trio.fail_after(1):
            assert await it.driver.reap() == [(1, b"first")]
        device.gate.set()
        await settled()

        assert device.seen == [[b"a", b"b"], [b"c"]]
        assert await it.driver.reap() == [(2, b"done"), (3, b"first")]
