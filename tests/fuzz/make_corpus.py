"""Write the seed corpus of device_end.c: a few valid rings, and one near miss of each kind.

`python tests/fuzz/make_corpus.py FOLDER` makes one file a case. What the fuzzer adds lies beside
them under other names.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NamedTuple

NEXT, WRITE, INDIRECT_FLAG = 1, 2, 4
INDIRECT, EVENT_IDX = 1, 2

# The same numbers as in device_end.c.
FIRST_ADDR = 0x1000
DATA_BYTES = 1024
MORE_BYTES = 512
READONLY_BYTES = 256
LAST_ADDR = 2**64 - 256

POP, COMPLETE, STALE, READ, WRITE_TO, PUBLISH, ARM, DISARM, GUEST_WRITES, RESTART = range(10)


class Desc(NamedTuple):
    """One descriptor, `addr` in guest-physical memory."""

    addr: int
    length: int
    flags: int = 0
    next: int = 0

    def to_bytes(self) -> bytes:
        return struct.pack("<QIHH", *self)


class Setup(NamedTuple):
    """How a ring is started; with few nodes only one chain of the longest kind fits."""

    features: int = 0
    table_max: int = 0
    few_nodes: bool = False
    start: int = 0  # where both rings go on


class Layout:
    """Where the areas of a queue of some size lie, in guest memory and in the image."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.avail = 16 * size
        self.used = self.avail + 6 + 2 * size
        self.data = self.used + 6 + 8 * size
        used_addr = (FIRST_ADDR + self.used + 3) & ~3
        self.data_addr = used_addr + 6 + 8 * size

    def image(
        self, table: list[Desc], heads: list[int], *, index: int = 0, data: bytes = b""
    ) -> bytes:
        """Return guest memory with chains offered from a ring index on."""
        ring = [0] * self.size
        for at, head in enumerate(heads, index):
            ring[at % self.size] = head
        desc = b"".join(entry.to_bytes() for entry in table).ljust(self.avail, b"\0")
        offered = (index + len(heads)) % 2**16
        avail = struct.pack(f"<HH{self.size}HH", 0, offered, *ring, index)
        return desc + avail + bytes(6 + 8 * self.size) + data


def pop(count: int = 16) -> bytes:
    return bytes([POP, count])


def complete(chain: int = 0, length: int = 8) -> bytes:
    return struct.pack("<BBI", COMPLETE, chain, length)


def copy(operation: int, chain: int = 0, offset: int = 0, length: int = 64) -> bytes:
    return struct.pack("<BBIH", operation, chain, offset, length)


def guest_writes(offset: int, data: bytes) -> bytes:
    return struct.pack("<BHB", GUEST_WRITES, offset, len(data)) + data


def restart(avail: int, used: int) -> bytes:
    return struct.pack("<BHH", RESTART, avail, used)


PLAIN = Setup()
SERVE = pop() + copy(READ) + copy(WRITE_TO) + complete() + bytes([PUBLISH, DISARM, ARM]) + pop()


def case(layout: Layout, image: bytes, script: bytes = SERVE, setup: Setup = PLAIN) -> bytes:
    """Return one input of device_end.c."""
    log = layout.size.bit_length() - 1
    head = struct.pack("<B3B2H", log, *setup, setup.start)
    return head + struct.pack("<H", len(image)) + image + script


def direct() -> dict[str, bytes]:
    """Return chains in the descriptor table only."""
    l4, l1 = Layout(4), Layout(1)
    at = l4.data_addr
    pair = [Desc(at, 16, NEXT, 1), Desc(at + 64, 32, WRITE)]
    border = [Desc(at + DATA_BYTES - 8, 16, NEXT, 1), Desc(at + DATA_BYTES - 4, 8, WRITE)]
    frozen = at + DATA_BYTES + MORE_BYTES
    two = [*pair, Desc(at, 4, NEXT, 3), Desc(at + 128, 64, WRITE)]
    second = copy(READ, 1) + complete(1) + bytes([STALE, 0]) + bytes([PUBLISH])
    return {
        "pair": case(l4, l4.image(pair, [0], data=b"request")),
        "two": case(l4, l4.image(two, [2, 0]), pop() + second + SERVE, Setup(EVENT_IDX)),
        "one": case(l1, l1.image([Desc(l1.data_addr, 8, WRITE)], [0]), setup=Setup(few_nodes=True)),
        "border": case(l4, l4.image(border, [0])),
        "last_address": case(l4, l4.image([Desc(LAST_ADDR, 256, WRITE)], [0])),
        "readonly": case(l4, l4.image([Desc(frozen, READONLY_BYTES, WRITE)], [0])),
        "empty_buffers": case(l4, l4.image([Desc(0, 0, NEXT, 1), Desc(at, 0, WRITE)], [0])),
        "wrap": case(l4, l4.image(two, [0, 2], index=65535), setup=Setup(EVENT_IDX, start=65535)),
    }


def indirect() -> dict[str, bytes]:
    """Return chains that go on in an indirect table."""
    layout = Layout(8)
    at = layout.data_addr
    inner = [Desc(at + 512, 16, NEXT, 2), Desc(at + 600, 8, WRITE), Desc(at + 544, 4, NEXT, 1)]
    data = b"".join(entry.to_bytes() for entry in inner)
    pointer = Desc(at, len(data), INDIRECT_FLAG)
    after = [Desc(at + 700, 4, NEXT, 1), pointer]
    odd = Desc(at + 1, len(data), INDIRECT_FLAG)
    line = [Desc(at, 4, NEXT, i + 1) for i in range(7)] + [Desc(at, 4)]
    wraps = Desc(2**64 - 16, 32, INDIRECT_FLAG)
    on, few = Setup(INDIRECT | EVENT_IDX), Setup(INDIRECT, table_max=3, few_nodes=True)

    def offer(table: list[Desc], heads: list[int], setup: Setup, before: bytes = b"") -> bytes:
        return case(layout, layout.image(table, heads, data=before + data), SERVE, setup)

    return {
        "indirect": offer([pointer], [0], on),
        "indirect_after_direct": offer(after, [0], few),
        "indirect_unaligned": offer([odd], [0], on, b"\0"),
        "indirect_twice": offer([pointer] * 3, [0, 1, 2], few),
        "nodes_run_out": offer(line, [0, 1, 2, 3], few),
        "bad_indirect_off": offer([pointer], [0], PLAIN),
        "bad_indirect_wraps": offer([wraps], [0], on),
    }


def hostile() -> dict[str, bytes]:
    """Return guests that break a rule, or change what they wrote while the device has it."""
    layout = Layout(4)
    at = layout.data_addr
    pair = [Desc(at, 16, NEXT, 1), Desc(at + 64, 32, WRITE)]
    good = layout.image(pair, [0])
    swap = guest_writes(0, Desc(2**63, 2**32 - 1, NEXT, 9).to_bytes())
    forget = pop() + restart(0, 0) + pop() + bytes([STALE, 0]) + bytes([STALE, 1]) + bytes(8)
    again = guest_writes(layout.avail + 2, b"\2\0") + pop()
    huge = [Desc(at, 2**32 - 1, WRITE | NEXT, 1), Desc(at, 1, WRITE)]
    order = [Desc(at, 1, WRITE | NEXT, 1), Desc(at, 1)]
    return {
        "changed_after_pop": case(layout, good, pop() + swap + SERVE),
        "restarted": case(layout, good, SERVE + forget),
        "bad_head": case(layout, layout.image(pair, [4])),
        "bad_head_in_flight": case(layout, good, pop() + again + SERVE),
        "bad_index": case(layout, good, guest_writes(layout.avail + 2, b"\5\0") + SERVE),
        "bad_loop": case(layout, layout.image([Desc(at, 4, NEXT, 0)], [0])),
        "bad_length": case(layout, layout.image(huge, [0])),
        "bad_order": case(layout, layout.image(order, [0])),
        "bad_address": case(layout, layout.image([Desc(0xFFF, 2)], [0])),
    }


def corpus() -> dict[str, bytes]:
    """Return every input by its name; those that begin with "bad" hold a chain to refuse."""
    return direct() | indirect() | hostile()


def main(folder: Path) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in corpus().items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
