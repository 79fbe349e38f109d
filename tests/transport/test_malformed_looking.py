"""Chains that look wrong, or are rare, and that a device has to take: no peer of ours takes all.

The ids carry the clause.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from paravirt.transport._device_ring import DeviceRing
from paravirt.transport._errors import Cause, RingBroken

from .fenced import PAGE
from .hand_ring import INDIRECT, NEXT, WRITE, HandRing, descriptor
from .ring_scene import DATA, END, HOLE, MORE, TOP, Scene, clause, counted

Row = tuple[int, int, int, int]  # address, length, flags, next
Build = Callable[[HandRing], None]
SIZE = 8
TABLE = DATA + 0x800
OUT = DATA + 0x400
"""Where the writable buffers are."""


def text(addr: int, length: int) -> bytes:
    """Return what is in memory there before the device writes."""
    return bytes((at ^ at >> 8) & 0xFF for at in range(addr, addr + length))


def direct(*rows: Row) -> Build:
    def build(ring: HandRing) -> None:
        for index, row in enumerate(rows):
            ring.desc(index, *row)

    return build


def table(*rows: Row, addr: int = TABLE, flags: int = 0, length: int | None = None) -> Build:
    def build(ring: HandRing) -> None:
        raw = b"".join(descriptor(*row) for row in rows)
        ring.memory.write(addr, raw)
        ring.desc(0, addr, len(raw) if length is None else length, INDIRECT | flags)

    return build


def behind(first: list[Row], *rows: Row) -> Build:
    """Put direct descriptors first, and a table behind the last of them."""

    def build(ring: HandRing) -> None:
        for index, row in enumerate(first):
            ring.desc(index, *row)
        ring.table(TABLE, *(descriptor(*row) for row in rows), at=len(first))

    return build


def byte_by_byte(count: int) -> list[Row]:
    """Return descriptors of one byte each, every one of them continued."""
    return [(DATA + index, 1, NEXT, index + 1) for index in range(count)]


def ended(rows: list[Row]) -> list[Row]:
    """Return the rows with the last one not continued."""
    addr, length, flags, _ = rows[-1]
    return [*rows[:-1], (addr, length, flags & ~NEXT, 0)]


def in_the_ring_itself(ring: HandRing) -> None:
    """Let the table of descriptor 0 be the descriptors behind it."""
    ring.desc(0, ring.geometry.desc + 16, 32, INDIRECT)
    ring.desc(1, DATA, 4, NEXT, 1)
    ring.desc(2, DATA + 4, 4)


REPLY = (OUT, 8, WRITE, 0)
HEAD = [(DATA, 4, NEXT, 1)]

# The id, the readable bytes, how many are writable, and the chain.
CASES: list[tuple[str, bytes, int, Build]] = [
    ("2.7.5.3.2-table-behind-a-descriptor", text(DATA, 4), 8, behind(HEAD, REPLY)),
    (
        "2.7.5.3.2-table-behind-a-descriptor-goes-on-reading",
        text(DATA, 4) + text(DATA + 64, 2),
        8,
        behind(HEAD, (DATA + 64, 2, NEXT, 1), REPLY),
    ),
    (
        "2.7.5.3.2-table-behind-a-writable-descriptor",
        b"",
        16,
        behind([(OUT + 8, 8, WRITE | NEXT, 1)], REPLY),
    ),
    (
        "2.7.5.3.2-longest-table-behind-the-longest-chain",
        text(DATA, 7) + text(DATA, 8),
        0,
        behind(byte_by_byte(SIZE - 1), *ended(byte_by_byte(SIZE))),
    ),
    (
        "2.7.5.3.2-write-flag-on-the-table-is-ignored",
        text(DATA, 4),
        8,
        table(*HEAD, REPLY, flags=WRITE),
    ),
    ("2.7.5.3-table-of-one", text(DATA, 4), 0, table((DATA, 4, 0, 0))),
    ("2.7.5.3.1-table-as-long-as-the-queue", text(DATA, 8), 0, table(*ended(byte_by_byte(SIZE)))),
    (
        "2.7.5.3-table-in-any-order",
        text(DATA, 4) + text(DATA + 9, 1),
        8,
        table((DATA, 4, NEXT, 2), REPLY, (DATA + 9, 1, NEXT, 1)),
    ),
    ("2.7.5.3-table-at-an-odd-address", text(DATA, 4), 8, table(*HEAD, REPLY, addr=TABLE + 1)),
    ("2.7.5.3-table-at-8-of-16", text(DATA, 4), 8, table(*HEAD, REPLY, addr=TABLE + 8)),
    ("2.7.5.3-table-over-two-regions", text(DATA, 4), 8, table(*HEAD, REPLY, addr=MORE - 16)),
    ("2.7.5.3-entry-over-two-regions", text(DATA, 4), 8, table(*HEAD, REPLY, addr=MORE - 5)),
    ("2.7.5.3-table-at-the-end-of-memory", text(DATA, 4), 8, table(*HEAD, REPLY, addr=END - 32)),
    ("2.7.5.3-table-at-the-last-address", text(DATA, 4), 8, table(*HEAD, REPLY, addr=-32 % 2**64)),
    (
        "2.7.5.3-table-with-unused-entries-outside-memory",
        text(DATA, 4),
        8,
        table(*HEAD, REPLY, addr=END - 32, length=64),
    ),
    ("2.7.5.3-table-in-the-ring-itself", text(DATA, 8), 0, in_the_ring_itself),
    ("2.7.5-empty-buffer-alone", b"", 0, direct((DATA, 0, 0, 0))),
    ("2.7.5-empty-buffer-first", text(DATA, 4), 0, direct((DATA, 0, NEXT, 1), (DATA, 4, 0, 0))),
    (
        "2.7.5-empty-buffers-between",
        text(DATA, 4),
        8,
        direct(*HEAD, (DATA, 0, NEXT, 2), (OUT, 0, NEXT | WRITE, 3), REPLY),
    ),
    ("2.7.5-empty-buffer-in-a-hole", b"", 0, direct((HOLE, 0, WRITE, 0))),
    ("2.7.5-empty-buffers-in-a-table", b"", 0, table((0, 0, NEXT, 1), (0, 0, 0, 0))),
    ("2.7.4.1-header-byte-by-byte", text(DATA, 8), 0, direct(*ended(byte_by_byte(SIZE)))),
    (
        "2.7.4.1-reply-byte-by-byte",
        b"",
        4,
        direct(*((OUT + i, 1, WRITE | NEXT * (i < 3), i + 1) for i in range(4))),
    ),
    ("2.7.4.1-one-buffer-for-all", text(DATA, 0x400), 0, direct((DATA, 0x400, 0, 0))),
    ("2.7.5-unknown-flags-are-ignored", text(DATA, 4), 0, direct((DATA, 4, 0xFFF8, 0))),
    ("2.7.5-unknown-flags-in-a-table-are-ignored", b"", 8, table((OUT, 8, 0xFFF8 | WRITE, 0))),
    ("2.7.5-next-without-its-flag-is-ignored", text(DATA, 4), 0, direct((DATA, 4, 0, 65535))),
    ("2.7.5-buffer-over-two-regions", text(MORE - 3, 9), 0, direct((MORE - 3, 9, 0, 0))),
    ("2.7.5-writable-buffer-over-two-regions", b"", 9, direct((MORE - 3, 9, WRITE, 0))),
    ("2.7.5-buffer-at-the-last-address", text(TOP, PAGE), 0, direct((TOP, PAGE, 0, 0))),
    ("2.7.5-reply-over-the-request", text(DATA, 4), 4, direct(*HEAD, (DATA, 4, WRITE, 0))),
    ("2.7.5-one-buffer-many-times", text(DATA, 4) * 3, 0, direct(
        (DATA, 4, NEXT, 1), (DATA, 4, NEXT, 2), (DATA, 4, 0, 0)
    )),
]  # fmt: skip


def scene_with_text() -> Scene:
    scene = Scene(SIZE)
    for addr, length in (DATA, END - DATA), (TOP, PAGE):
        scene.memory.write(addr, text(addr, length))
    return scene


@pytest.mark.parametrize(
    ("readable", "writable", "build"),
    [pytest.param(data, room, build, id=name) for name, data, room, build in CASES],
)
def test_malformed_looking_chain_is_taken(readable: bytes, writable: int, build: Build) -> None:
    scene = scene_with_text()
    build(scene.ring)
    scene.ring.offer(0)
    token, sizes = scene.device.cycle([], [])
    reply = bytes(range(1, writable + 1))

    assert sizes == len(readable) << 32 | writable
    assert scene.device.read(token, 0, 1 << 16) == readable
    assert scene.device.write(token, 0, reply + b"too long") == writable
    scene.device.cycle([token], [writable])
    assert scene.ring.take_used() == [(0, writable)]
    assert scene.rejected() == {}


@clause("2.7.5")
def test_malformed_looking_chain_in_parts_over_two_regions_is_read_and_written_anywhere() -> None:
    scene = scene_with_text()
    direct(
        (MORE - 3, 9, NEXT, 1), (DATA, 5, NEXT, 2), (OUT, 3, WRITE | NEXT, 3), (MORE - 1, 3, 2, 0)
    )(scene.ring)
    scene.ring.offer(0)
    token, _ = scene.device.cycle([], [])

    assert scene.device.read(token, 2, 10) == (text(MORE - 3, 9) + text(DATA, 5))[2:12]
    assert scene.device.write(token, 2, b"abc") == 3
    assert scene.memory.read(OUT, 3) == text(OUT, 2) + b"a"
    assert scene.memory.read(MORE - 1, 3) == b"bc" + text(MORE + 1, 1)


@clause("2.7.5.3.1")
def test_malformed_table_longer_than_the_queue_is_taken_where_policy_allows_it() -> None:
    """Linux makes such tables (see openvmm#2985); `table_max` is the limit, not a hint."""
    scene = Scene(SIZE)
    device = DeviceRing(scene.memory, scene.ring.geometry, table_max=64)
    for length in 64, 65:
        rows = ended([(DATA, 1, NEXT, index + 1) for index in range(length)])
        scene.ring.table(TABLE, *(descriptor(*row) for row in rows))
        scene.ring.offer(0)
        flat = device.cycle([], [])
        device.complete(flat[::2], [0] * len(flat[::2]))

    assert device.statistics().bytes_in == 64
    assert device.statistics().rejected == counted(Cause.INDIRECT_SIZE)


@pytest.mark.parametrize("area", ["desc", "driver", "device"])
@clause("2.7.5")
def test_malformed_reply_into_the_ring_itself_stays_in_memory(area: str) -> None:
    """The driver had its own ring overwritten: it harms that queue at most."""
    scene = Scene(SIZE)
    scene.ring.desc(0, getattr(scene.ring.geometry, area), 22, WRITE)
    scene.ring.offer(0)
    token, _ = scene.device.cycle([], [])
    scene.device.write(token, 0, b"\xff" * 22)
    scene.device.complete([token], [22])
    with suppress(RingBroken):
        scene.device.cycle([], [])

    scene.assert_other_serves()
