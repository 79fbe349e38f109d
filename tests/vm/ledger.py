"""What was written to a disk and what was acknowledged, block by block, to hold the disk to it.

Each block carries its number and its generation in every 16 bytes of it, so that one that is lost,
stale or torn shows, whatever happened.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import trio

BLOCK = 4096
SECTORS = BLOCK // 512
RECORD = struct.Struct("<QQ")


def block(number: int, generation: int) -> bytes:
    """Return what is written to a block."""
    return RECORD.pack(number, generation) * (BLOCK // RECORD.size)


@dataclass
class Ledger:
    """A disk of so many blocks, all at generation 0, each written by one task at a time."""

    blocks: int
    sent: list[int] = field(init=False)
    """The generation last written."""
    acknowledged: list[int] = field(init=False)
    """The generation whose write came back last."""
    kills: int = 0
    writes: int = 0
    lost: int = 0
    doubled: int = 0
    torn: int = 0
    in_flight: int = 0
    """Writes that were out at a kill."""
    _moved: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.sent = [0] * self.blocks
        self.acknowledged = [0] * self.blocks

    def image(self) -> bytes:
        """Return the disk to begin with."""
        return b"".join(block(number, 0) for number in range(self.blocks))

    def send(self, number: int) -> bytes:
        """Return what to write to a block next."""
        self.sent[number] += 1
        return block(number, self.sent[number])

    def acknowledge(self, number: int) -> None:
        """Note that the write to a block came back."""
        self.acknowledged[number] = self.sent[number]
        self.writes += 1
        self._moved.set()

    async def goes_on(self) -> None:
        """Wait until one more write has come back."""
        self._moved = trio.Event()
        await self._moved.wait()

    def check(self, disk: bytes) -> None:
        """Count what is wrong with a disk that nobody writes to now.

        A block whose write is out may have either content, or be torn: it is written again.
        """
        assert len(disk) == self.blocks * BLOCK
        for number in range(self.blocks):
            data = disk[number * BLOCK :][:BLOCK]
            named, generation = RECORD.unpack_from(data)
            wanted, sent = self.acknowledged[number], self.sent[number]
            if (named, data) != (number, block(number, generation)) or generation > sent:
                self.torn += wanted == sent
            elif generation < wanted:
                self.lost += 1

    def kill(self, disk: bytes) -> None:
        """Count a kill, and what it left of the disk."""
        self.kills += 1
        self.in_flight += sum(map(int.__ne__, self.sent, self.acknowledged))
        self.check(disk)

    def finish(self, disk: bytes) -> str:
        """Check the disk when all writes have come back; returns the line that sums it all up."""
        assert self.sent == self.acknowledged
        self.check(disk)
        return (
            f"{self.kills} kills with {self.in_flight} writes in flight,"
            f" {self.writes} writes acknowledged, {self.lost} lost,"
            f" {self.doubled} completed twice, {self.torn} torn"
        )
