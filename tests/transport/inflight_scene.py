"""A ring with an inflight table as bytes, for tests: what a kill leaves, and what is then due."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from paravirt.transport import DeviceRing, Memory, Region, RingGeometry
from paravirt.transport.inflight import Inflight, InflightFile, table_size

if TYPE_CHECKING:
    from typing import Self

SIZE = 8
GEOMETRY = RingGeometry.contiguous(SIZE, 0)
TABLE = -(-GEOMETRY.end // 64) * 64
BYTES = TABLE + table_size(SIZE)


class Scene:
    """The shared bytes of one queue, in memory that they are taken up from."""

    def __init__(self, data: bytes = bytes(BYTES)) -> None:
        self.memory = Memory([Region.create(4096, addr=0)])
        self.file = InflightFile.create(1, SIZE)
        self.memory.write(0, data[:TABLE])
        self.tables = Memory([self.file.region])
        self.tables.write(0, data[TABLE:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.memory.close()

    @property
    def data(self) -> bytes:
        """All shared bytes."""
        return self.memory.read(0, TABLE) + self.table

    @property
    def table(self) -> bytes:
        """Those of the table."""
        return self.tables.read(0, table_size(SIZE))

    def take_up(self) -> Inflight:
        """Do what a backend does with the table when it starts the queue."""
        return self.take_up_from(self.file)

    def take_up_from(self, file: InflightFile, queue: int = 0) -> Inflight:
        """Do it with a table of another file."""
        return file.take_up(queue, SIZE, avail=self.avail(), used=self.used())

    def ring(self, inflight: Inflight) -> DeviceRing:
        """Start the queue."""
        used = inflight.used
        return DeviceRing(self.memory, GEOMETRY, avail=used, used=used, inflight=inflight)

    def offer(self, *heads: int) -> None:
        """Offer chains of one byte, as a driver does."""
        index = self.avail()
        for head in heads:
            self.memory.write(16 * head + 8, b"\1")
            entry = GEOMETRY.driver + 4 + 2 * (index % SIZE)
            self.memory.write(entry, head.to_bytes(2, "little"))
            index = (index + 1) & 0xFFFF
            self.memory.write(GEOMETRY.driver + 2, index.to_bytes(2, "little"))

    def avail(self) -> int:
        """Return the available index."""
        return int.from_bytes(self.memory.read(GEOMETRY.driver + 2, 2), "little")

    def used(self) -> int:
        """Return the used index."""
        return int.from_bytes(self.memory.read(GEOMETRY.device + 2, 2), "little")


def heads_of(flat: list[int]) -> list[int]:
    """Return the heads of chains as `DeviceRing.cycle` gives them."""
    return [token & 0xFFFF for token in flat[::2]]


@dataclass
class Model:
    """What a driver offered and a device gave back, in order, however often it was killed."""

    offers: list[int] = field(default_factory=list[int])
    bad: list[bool] = field(default_factory=list[bool])
    returned: list[int] = field(default_factory=list[int])
    taken: list[int] = field(default_factory=list[int])
    """Which of the offers, by their place, the device has now."""
    cursor: int = 0
    inherited: int = 0
    """How many of the offers are from an earlier life."""

    def free(self) -> list[int]:
        """Return the heads that the driver has."""
        out = Counter(self.offers)
        out.subtract(self.returned)
        return [head for head in range(SIZE) if not out[head]]

    def offer(self, head: int, *, bad: bool) -> str:
        """Offer a chain; returns the harness's line for it."""
        self.offers.append(head)
        self.bad.append(bad)
        return f"{'b' if bad else 'o'} {head}\n"

    def turn(self, places: list[int], most: int) -> str:
        """Give back what was offered at these places, and take more."""
        for place in places:
            self.taken.remove(place)
            self.returned.append(self.offers[place])
        got = 0
        while got < most and self.cursor < len(self.offers):
            if self.bad[self.cursor]:
                self.returned.append(self.offers[self.cursor])
            else:
                self.taken.append(self.cursor)
                got += 1
            self.cursor += 1
        return f"t {most} {' '.join(str(self.offers[place]) for place in places)}\n"

    def left(self, offered: int, returned: int) -> list[int]:
        """Return the places of what is due after a kill, in the order of the driver."""
        back = Counter(self.returned[:returned])
        due: list[int] = []
        for place, head in enumerate(self.offers[:offered]):
            if back[head]:
                back[head] -= 1
            else:
                due.append(place)
        return due

    def killed(self, offered: int, returned: int) -> None:
        """Begin a new life when so much had been offered and had come back."""
        due = self.left(offered, returned)
        self.offers, self.bad = [self.offers[at] for at in due], [self.bad[at] for at in due]
        self.returned, self.taken, self.cursor = [], [], 0
        self.inherited = len(due)
