"""A guest with two queues: one to spoil, and another that has to go on whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.transport._device_ring import DeviceRing
from paravirt.transport._features import Feature
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._memory import Memory

from .fenced import PAGE, fenced_region
from .hand_ring import NEXT, WRITE, HandRing

if TYPE_CHECKING:
    from paravirt.transport._errors import Cause

EVENT_IDX, INDIRECT_DESC = Feature.RING_EVENT_IDX, Feature.RING_INDIRECT_DESC

RINGS, RINGS_SIZE = 0x10000, 4 * PAGE
DATA = 0x100000  # two regions that adjoin in the guest and lie apart here
MORE = DATA + 2 * PAGE
END = MORE + PAGE  # the first address behind the data
TOP = (1 << 64) - PAGE  # the last page of all
HOLE = 0x400000
BAR = 0xE0000000  # where a PCI device's registers would be
SPARE = MORE - PAGE  # data that no spoilt chain uses


class Scene:
    """Memory between fences, two hand-made rings in it, and the devices' ends."""

    def __init__(self, size: int = 8, features: int = INDIRECT_DESC | EVENT_IDX) -> None:
        layout = {RINGS: RINGS_SIZE, DATA: 2 * PAGE, MORE: PAGE, TOP: PAGE}
        regions = [fenced_region(length, addr=addr) for addr, length in layout.items()]
        self.memory = Memory(regions)
        one = RingGeometry.contiguous(size, RINGS, features)
        two = RingGeometry.contiguous(size, RINGS + RINGS_SIZE // 2, features)
        self.ring, self.other = HandRing(self.memory, one), HandRing(self.memory, two)
        self.device = DeviceRing(self.memory, one)
        self.other_device = DeviceRing(self.memory, two)

    def all_but_used(self) -> list[bytes]:
        """Return the memory that the device of the first queue must leave alone."""
        geometry = self.ring.geometry
        pieces = [
            (RINGS, geometry.device - RINGS),
            (geometry.end, RINGS + RINGS_SIZE - geometry.end),
        ]
        pieces += [(DATA, END - DATA), (TOP, PAGE)]
        return [self.memory.read(*piece) for piece in pieces]

    def assert_serves(self, head: int = 0) -> None:
        """Check that the queue takes a good chain and gives it back."""
        _assert_serves(self.ring, self.device, head)

    def assert_other_serves(self) -> None:
        """Check that the other queue does."""
        _assert_serves(self.other, self.other_device, 0)

    def rejected(self) -> dict[str, int]:
        """Return what the first queue rejected, by cause."""
        return self.device.statistics().rejected


def clause(text: str) -> pytest.MarkDecorator:
    """Put a clause of virtio 1.4 into a test's id."""
    return pytest.mark.parametrize((), [pytest.param(id=text)])


def counted(cause: Cause, times: int = 1) -> dict[str, int]:
    """Return the counters after `times` faults of one cause."""
    return {cause.name.lower(): times}


def ready(count: int, *, features: int = 0, size: int = 8) -> Scene:
    """Return a queue with a chain of 4 readable and 8 writable bytes at each even head."""
    scene = Scene(size, features)
    scene.memory.write(DATA, b"data")
    for head in range(0, size, 2):
        scene.ring.desc(head, DATA, 4, NEXT, head + 1)
        scene.ring.desc(head + 1, SPARE, 8, WRITE)
    scene.ring.offer(*range(0, 2 * count, 2))
    return scene


def one(scene: Scene) -> int:
    """Take the one chain that is there; return its token."""
    token, _ = scene.device.cycle([], [])
    return token


def _assert_serves(ring: HandRing, device: DeviceRing, head: int) -> None:
    ring.take_used()
    ring.memory.write(SPARE, b"ping")
    ring.desc(head, SPARE, 4)
    ring.offer(head)
    token, sizes = device.cycle([], [])

    assert sizes == 4 << 32
    assert device.read(token, 0, 100) == b"ping"
    assert device.cycle([token], [0]) == []
    assert ring.take_used() == [(head, 0)]
