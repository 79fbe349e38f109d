"""What a device does with a batch before its handler gets it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from paravirt.hostside import Device
from paravirt.hostside._loop import current_loop

from .serving import by_hand, served, settled, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paravirt.hostside import Request
    from paravirt.transport import DeviceRing


class Looks(Device, abstract=True):
    """Is asked again `more` times about each batch, and leaves all of it."""

    device_id = 42
    queue_sizes = (16, 16)
    taken_queues: Sequence[int] = (1,)
    more = 0

    def __init__(self) -> None:
        self.asked: list[int] = []
        """How many requests were in hand each time."""
        self.handled: list[list[bytes]] = []

    def ahead(self) -> Callable[[DeviceRing, int], bool]:
        return self._look

    def _look(self, ring: DeviceRing, spin_ns: int) -> bool:
        assert spin_ns == 0, "the driver is in the same thread"
        self.asked.append(len(ring.rest()) // 2)
        if self.more:
            self.more -= 1
            return True
        return False


class Singly(Looks):
    def handle(self, request: Request) -> None:
        self.handled.append([request.read()])


class Together(Looks):
    def handle_batch(self, requests: Sequence[Request]) -> None:
        self.handled.append([request.read() for request in requests])


@pytest.mark.parametrize(
    ("kind", "handled"), [(Singly, [[b"a"], [b"b"]]), (Together, [[b"a", b"b"]])]
)
async def test_what_it_leaves_is_handled(kind: type[Looks], handled: list[list[bytes]]) -> None:
    device = kind()
    async with served(device) as it:
        assert await it.driver.request_many([(b"a", 1), (b"b", 1)]) == [b"", b""]
        assert device.statistics().queues[0].ahead == 0

    assert device.asked == [2]
    assert device.handled == handled


async def test_it_is_asked_again_as_often_as_it_wants() -> None:
    device = Singly()
    device.more = 3
    async with served(device) as it:
        await it.driver.request(b"a", 1)

    assert device.asked == [1, 1, 1, 1]
    assert device.handled == [[b"a"]]


async def test_others_run_in_between() -> None:
    device, other = Singly(), Singly()
    async with by_hand(device) as hand, served(other) as beside:
        current_loop().clock = itertools.count(0, 10**9).__next__  # each share is used up at once
        device.more = 10**9
        hand.offer(b"a", 1)
        hand.show()
        await until(lambda: len(device.asked) > 1)
        await beside.driver.request(b"b", 1)
        device.more = 0
        await settled()

        assert (device.handled, other.handled) == ([[b"a"]], [[b"b"]])


async def test_a_queue_that_is_taken_from_has_nobody_ask() -> None:
    device = Singly()
    async with served(device) as it:
        it.driver.submit(b"a", 1, queue=1)
        await settled()
        request = await device.queue(1).take()

        assert request.read() == b"a"
    assert device.asked == []
