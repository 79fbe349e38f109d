"""Queues that cannot be: refused where the driver sets them up, and again where the ring starts.

The ids carry the clause. A transport asks `DeviceState` first; a ring does not rely on that.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from paravirt.transport._device_ring import DeviceRing
from paravirt.transport._driver_ring import DriverRing
from paravirt.transport._errors import AddressError, RingBroken
from paravirt.transport._features import Feature
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._memory import Memory

from .fenced import PAGE, fenced_region
from .hand_ring import HandRing
from .negotiation import DRIVER_OK, FEATURES_OK, assert_refused, device_at
from .ring_scene import DATA, END, HOLE, MORE, RINGS, TOP, Scene, clause

DESC, AVAIL, USED = RINGS, RINGS + 0x800, RINGS + 0xC00
ENDS = pytest.mark.parametrize("end", [DeviceRing, DriverRing])
BAD_SIZES = [
    pytest.param(size, id=f"2.7-size-{size}") for size in (0, 3, 6, 255, 32769, 65536, 1 << 31)
]
MISALIGNED = [
    pytest.param(DESC + 8, AVAIL, USED, id="2.7.1-table"),
    pytest.param(DESC, AVAIL + 1, USED, id="2.7.1-driver-ring"),
    pytest.param(DESC, AVAIL, USED + 2, id="2.7.1-device-ring"),
]
OVERLAPPING = [
    pytest.param(DESC, DESC + 16 * 8 - 2, USED, id="2.7-driver-ring-in-the-table"),
    pytest.param(DESC, AVAIL, AVAIL, id="2.7-device-ring-on-the-driver-ring"),
    pytest.param(DESC, AVAIL, DESC, id="2.7-device-ring-on-the-table"),
]
OUTSIDE = [
    pytest.param(HOLE, AVAIL, USED, id="2.7-table-in-a-hole"),
    pytest.param(DESC, HOLE, USED, id="2.7-driver-ring-in-a-hole"),
    pytest.param(DESC, AVAIL, HOLE, id="2.7-device-ring-in-a-hole"),
    pytest.param(0, 0, 0, id="2.7-without-addresses"),
    pytest.param(END - 112, AVAIL, USED, id="2.7-table-ends-behind-memory"),
    pytest.param(DESC, END - 20, USED, id="2.7-driver-ring-ends-behind-memory"),
    pytest.param(DESC, AVAIL, END - 68, id="2.7-device-ring-ends-behind-memory"),
    pytest.param(TOP + PAGE - 16, AVAIL, USED, id="2.7-table-wraps-at-2^64"),
    pytest.param(MORE - 16, AVAIL, USED, id="2.7-table-over-two-regions"),
]


@pytest.mark.parametrize("size", BAD_SIZES)
@ENDS
def test_malformed_size_is_refused_by_the_ring(
    end: type[DeviceRing | DriverRing], size: int
) -> None:
    """Before anything is allocated by it."""
    geometry = RingGeometry(size=size, desc=DESC, driver=AVAIL, device=USED)

    with pytest.raises(ValueError, match=str(size)):
        end(Scene().memory, geometry)


@pytest.mark.parametrize("size", BAD_SIZES)
def test_malformed_size_is_refused_by_the_device(size: int) -> None:
    state = device_at(FEATURES_OK)

    assert_refused(state, "2.7", lambda: state.set_queue(0, size, DESC, AVAIL, USED))


@pytest.mark.parametrize(("desc", "driver", "device"), MISALIGNED)
@ENDS
def test_malformed_alignment_is_refused_by_the_ring(
    end: type[DeviceRing | DriverRing], desc: int, driver: int, device: int
) -> None:
    geometry = RingGeometry(size=8, desc=desc, driver=driver, device=device)

    with pytest.raises(ValueError, match="argument"):
        end(Scene().memory, geometry)


@pytest.mark.parametrize(("desc", "driver", "device"), MISALIGNED)
def test_malformed_alignment_is_refused_by_the_device(desc: int, driver: int, device: int) -> None:
    state = device_at(FEATURES_OK)

    assert_refused(state, "2.7.1", lambda: state.set_queue(0, 8, desc, driver, device))


@pytest.mark.parametrize(("desc", "driver", "device"), OUTSIDE)
@ENDS
def test_malformed_address_is_refused_by_the_ring(
    end: type[DeviceRing | DriverRing], desc: int, driver: int, device: int
) -> None:
    """Memory is the ring's business: the device's state does not know what there is."""
    geometry = RingGeometry(size=8, desc=desc, driver=driver, device=device)

    with pytest.raises(AddressError):
        end(Scene().memory, geometry)


@clause("2.7")
def test_malformed_address_beyond_the_last_is_refused_by_the_device() -> None:
    state = device_at(FEATURES_OK)

    assert_refused(state, "2.7", lambda: state.set_queue(0, 8, TOP + PAGE - 16, AVAIL, USED))


@ENDS
@clause("2.7.8")
def test_malformed_device_ring_in_memory_that_cannot_be_written_is_refused_by_the_ring(
    end: type[DeviceRing | DriverRing],
) -> None:
    memory = Scene().memory
    rows = memory.table.c.regions
    read_only = next(row for row in rows[0 : memory.table.c.count] if row.addr == DATA)
    read_only.flags = 2  # PV_REGION_READONLY
    geometry = RingGeometry(size=8, desc=DESC, driver=AVAIL, device=DATA)

    with pytest.raises(AddressError):
        end(memory, geometry)


@pytest.mark.parametrize(("desc", "driver", "device"), OVERLAPPING)
def test_malformed_overlap_is_refused_by_the_device(desc: int, driver: int, device: int) -> None:
    state = device_at(FEATURES_OK)

    assert_refused(state, "2.7", lambda: state.set_queue(0, 8, desc, driver, device))


@pytest.mark.parametrize(("desc", "driver", "device"), OVERLAPPING)
def test_malformed_overlap_stays_in_memory_and_with_its_queue(
    desc: int, driver: int, device: int
) -> None:
    """A ring that were started all the same would harm itself at most."""
    scene = Scene()
    geometry = RingGeometry(size=8, desc=desc, driver=driver, device=device)
    ring, taken = HandRing(scene.memory, geometry), DeviceRing(scene.memory, geometry)
    with suppress(RingBroken):
        for round_ in range(100):
            ring.desc(round_ % 8, DATA, 16)
            ring.offer(round_ % 8)
            flat = taken.cycle([], [])
            taken.complete(flat[::2], [0] * len(flat[::2]))

    scene.assert_other_serves()


@clause("2.7")
def test_malformed_overlap_of_two_queues_is_refused_by_the_device() -> None:
    state = device_at(FEATURES_OK)
    state.set_queue(0, 8, DESC, AVAIL, USED)
    state.enable_queue(0)
    state.set_queue(1, 8, DESC + 0x4000, USED, USED + 0x4000)

    assert_refused(state, "2.7", lambda: state.enable_queue(1))


@clause("4.1.4.3.2")
def test_malformed_enabling_without_addresses_is_refused_by_the_device() -> None:
    state = device_at(FEATURES_OK)

    assert_refused(state, "4.1.4.3.2", lambda: state.enable_queue(0))


@pytest.mark.parametrize("index", [2, 65535, -1])
@clause("2.6")
def test_malformed_notification_of_a_queue_that_does_not_exist_is_refused_by_the_device(
    index: int,
) -> None:
    """Whoever takes a notification looks the queue up by this."""
    state = device_at(DRIVER_OK, queues=2)

    assert_refused(state, "2.6", lambda: state.queue(index))


@clause("2.7.1")
def test_malformed_tables_of_our_own_driver_are_refused_by_the_ring() -> None:
    """It stores descriptors whole, so it needs them aligned, though the device does not."""
    geometry = RingGeometry.contiguous(8, RINGS, Feature.RING_INDIRECT_DESC)

    with pytest.raises(ValueError, match="argument"):
        DriverRing(Scene().memory, geometry, tables=DATA + 4, table_max=2)
    with pytest.raises(AddressError):
        DriverRing(Scene().memory, geometry, tables=END - 16, table_max=2)


@clause("2.7")
def test_malformed_or_not_a_ring_up_to_the_ends_of_memory_stays_inside() -> None:
    """Each area ends where its region does, as far as alignment lets it."""
    memory = Memory([fenced_region(PAGE, addr=at * PAGE) for at in (2, 4, 6, 8)])
    desc, driver, device = 3 * PAGE - 16 * 8, 5 * PAGE - 22, 7 * PAGE - 72
    features = Feature.RING_EVENT_IDX
    geometry = RingGeometry(size=8, desc=desc, driver=driver, device=device, features=features)
    ours, theirs = DriverRing(memory, geometry), DeviceRing(memory, geometry)
    heads: list[int] = []
    for _ in range(100):
        for part in range(8):
            ours.add([(8 * PAGE + part, 1)])
        ours.publish()
        flat = theirs.cycle([], [])
        theirs.complete(flat[::2], [0] * 8)
        theirs.arm()
        ours.arm()
        heads += ours.reap()[::2]

    assert len(heads) == 800
