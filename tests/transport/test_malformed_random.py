"""Any bytes at all in a ring: the device's end and the model make the same of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import given, strategies as st

from paravirt.transport._errors import RingBroken

from .fenced import PAGE
from .hand_ring import INDIRECT, NEXT, WRITE, descriptor
from .ring_model import ModelMemory
from .ring_model_device import ModelDevice
from .ring_scene import (
    BAR,
    DATA,
    END,
    EVENT_IDX,
    HOLE,
    INDIRECT_DESC,
    MORE,
    RINGS,
    RINGS_SIZE,
    TOP,
    Scene,
    clause,
)

if TYPE_CHECKING:
    from paravirt.transport._device_ring import DeviceRing

AREAS = [range(RINGS, RINGS + RINGS_SIZE), range(DATA, END), range(TOP, TOP + PAGE)]
TABLES = [DATA + 0x800, MORE - 24, TOP + PAGE - 64, RINGS]
TABLE_LENGTH = 5

GOOD = [DATA, DATA + 1, DATA + 0x100, MORE - 3, END - 8, TOP + PAGE - 8]
BAD = [END - 2, TOP + PAGE - 2, HOLE, BAR, 0, (1 << 64) - 1]
ADDRESSES = st.one_of(st.sampled_from([*GOOD, *GOOD, *BAD]), st.integers(DATA - 4, END))
LENGTHS = st.sampled_from([0, 1, 2, 4, 8, 8, 8, 8, 16, PAGE, (1 << 32) - 1])
FLAGS = st.sampled_from([0, 0, NEXT, NEXT, WRITE, WRITE, WRITE | NEXT, NEXT | 0xFFF8])
WILD = st.builds(descriptor, ADDRESSES, LENGTHS, st.integers(0, 65535), st.integers(0, 65535))


def descriptors(size: int) -> st.SearchStrategy[bytes]:
    """Return descriptors for a table of some size: mostly sound, sometimes anything."""
    nexts = st.sampled_from([*range(size), *range(size), size])
    sound = st.builds(descriptor, st.sampled_from(GOOD), st.integers(0, 8), FLAGS, nexts)
    odd = st.builds(descriptor, ADDRESSES, LENGTHS, FLAGS, nexts)
    return st.one_of(sound, sound, sound, odd, REFERENCES, WILD)


# Descriptors that refer to a table; the flags WRITE and NEXT now and then.
REFERENCES = st.builds(
    descriptor,
    st.sampled_from([*TABLES, *TABLES, HOLE]),
    st.sampled_from([16, 32, 48, 64, 80, 144, 0, 17]),
    st.sampled_from([INDIRECT, INDIRECT, INDIRECT, INDIRECT | WRITE, INDIRECT | NEXT]),
    st.integers(0, 1),
)


@dataclass(frozen=True)
class Filling:
    """What the driver writes into a queue."""

    size: int
    features: int
    descriptors: list[bytes]
    table: list[bytes]
    heads: list[int]
    too_far: int
    """How much further the available index is than there are heads."""


@st.composite
def fillings(draw: st.DrawFn) -> Filling:
    size = draw(st.sampled_from([1, 2, 4, 8]))
    heads = st.sampled_from([*range(size)] * 4 + [size])
    entries = descriptors(TABLE_LENGTH)
    return Filling(
        size=size,
        features=draw(st.sampled_from([0, INDIRECT_DESC, INDIRECT_DESC | EVENT_IDX])),
        descriptors=draw(st.lists(descriptors(size), min_size=size, max_size=size)),
        table=draw(st.lists(entries, min_size=TABLE_LENGTH, max_size=TABLE_LENGTH)),
        heads=draw(st.lists(heads, max_size=size, unique=draw(st.booleans()))),
        too_far=draw(st.sampled_from([0] * 20 + [1, 9, 65535])),
    )


def fill(filling: Filling) -> Scene:
    """Write it into a queue between fences, and bytes that differ into the rest of memory."""
    scene = Scene(filling.size, filling.features)
    for area in AREAS[1:]:
        scene.memory.write(area.start, bytes(at * 7 & 0xFF for at in area))
    for table in TABLES[:-1]:
        entries = b"".join(filling.table)
        scene.memory.write(table, entries[: TOP + PAGE - table])
    scene.memory.write(scene.ring.geometry.desc, b"".join(filling.descriptors))
    scene.ring.offer(*filling.heads)
    scene.ring.put_avail_index(scene.ring.avail + filling.too_far)
    return scene


def cycle(device: DeviceRing) -> list[int]:
    """Take what there is; a broken ring has nothing."""
    try:
        return device.cycle([], [])
    except RingBroken:
        return []


@clause("2.7")
@given(filling=fillings())
def test_malformed_or_not_the_device_takes_what_the_model_takes(filling: Filling) -> None:
    scene = fill(filling)
    copy = ModelMemory(*AREAS)
    for area in AREAS:
        copy.write(area.start, scene.memory.read(area.start, len(area)))
    real, model = scene.device, ModelDevice(copy, scene.ring.geometry)
    ours, theirs = cycle(real), model.cycle([], [])
    statistics = real.statistics()

    assert ours[1::2] == theirs[1::2]
    assert statistics.broken == (model.broken and model.broken.name.lower())
    rejected = {cause.name.lower(): n for cause, n in model.rejected.items()}
    assert {cause: n for cause, n in statistics.rejected.items() if cause != statistics.broken} == (
        rejected
    )
    for token, twin in zip(ours[::2], theirs[::2], strict=True):
        assert real.read(token, 0, PAGE) == model.read(twin, 0, PAGE)
        assert real.write(token, 1, b"reply") == model.write(twin, 1, b"reply")
    lengths = [sizes >> 1 & 0xFFFFFFFF for sizes in ours[1::2]]
    assert real.complete(ours[::2], lengths) == model.complete(theirs[::2], lengths)
    for area in AREAS:
        assert scene.memory.read(area.start, len(area)) == copy.read(area.start, len(area))
    scene.memory.close()
