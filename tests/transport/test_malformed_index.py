"""Indices and heads that cannot be true: they break the one queue, until it is reset.

The ids carry the clause. The other queue of the guest goes on each time.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paravirt.transport._device_ring import DeviceRing
from paravirt.transport._errors import Cause, RingBroken

from .hand_ring import HandRing
from .ring_scene import DATA, EVENT_IDX, INDIRECT_DESC, Scene, clause, counted

Spoil = Callable[[HandRing], None]
SIZE = 8


def index_moves(by: int) -> Spoil:
    """Let the available index move by some entries, which nobody filled."""

    def spoil(ring: HandRing) -> None:
        ring.put_avail_index(ring.avail + by)

    return spoil


def heads(*offered: int) -> Spoil:
    """Offer these heads."""

    def spoil(ring: HandRing) -> None:
        ring.offer(*offered)

    return spoil


CASES: list[tuple[str, Cause, Spoil]] = [
    ("2.7.6-index-runs-one-too-far", Cause.AVAIL_INDEX, index_moves(SIZE + 1)),
    ("2.7.6-index-jumps", Cause.AVAIL_INDEX, index_moves(32768)),
    ("2.7.6.1-index-goes-back", Cause.AVAIL_INDEX, index_moves(-1)),
    ("2.7.6.1-index-goes-back-by-the-queue-size", Cause.AVAIL_INDEX, index_moves(-SIZE)),
    ("2.7.6-head-is-the-queue-size", Cause.HEAD_RANGE, heads(SIZE)),
    ("2.7.6-head-is-65535", Cause.HEAD_RANGE, heads(65535)),
    ("2.7.13.1-head-in-flight", Cause.HEAD_IN_FLIGHT, heads(0)),
]
each_case = pytest.mark.parametrize(
    ("cause", "spoil"), [pytest.param(cause, spoil, id=name) for name, cause, spoil in CASES]
)
each_spoil = pytest.mark.parametrize(
    "spoil", [pytest.param(spoil, id=name) for name, _, spoil in CASES]
)


def scene_with_one_in_flight(features: int = INDIRECT_DESC | EVENT_IDX) -> tuple[Scene, int]:
    """Return a scene, and the token of the chain at head 0."""
    scene = Scene(SIZE, features)
    for head in range(SIZE):
        scene.ring.desc(head, DATA + head, 16)
    scene.ring.offer(0)
    return scene, scene.device.cycle([], [])[0]


@each_case
def test_malformed_index_breaks_the_queue(cause: Cause, spoil: Spoil) -> None:
    scene, _ = scene_with_one_in_flight()
    spoil(scene.ring)
    before = scene.all_but_used()

    with pytest.raises(RingBroken) as raised:
        scene.device.cycle([], [])
    assert raised.value.cause is cause
    assert scene.device.statistics().broken == cause.name.lower()
    assert scene.rejected() == counted(cause)
    assert scene.ring.take_used() == []
    assert scene.all_but_used() == before
    scene.assert_other_serves()


@each_case
def test_malformed_index_breaks_the_queue_for_good(cause: Cause, spoil: Spoil) -> None:
    """Putting it right again does not help; each turn says the same, and it is counted once."""
    scene, _ = scene_with_one_in_flight()
    spoil(scene.ring)
    for _ in range(3):
        with pytest.raises(RingBroken) as raised:
            scene.device.cycle([], [])
        assert raised.value.cause is cause
        scene.ring.put_avail_index(1)

    assert scene.rejected() == counted(cause)


@each_spoil
def test_malformed_index_spares_what_was_taken_before(spoil: Spoil) -> None:
    """A good chain that is in flight can still be read and given back, with a call."""
    scene, token = scene_with_one_in_flight()
    spoil(scene.ring)
    with pytest.raises(RingBroken):
        scene.device.cycle([], [])

    assert len(scene.device.read(token, 0, 16)) == 16
    assert scene.device.complete([token], [0])
    assert scene.ring.take_used() == [(0, 0)]


@each_spoil
def test_malformed_index_ends_a_wait(spoil: Spoil) -> None:
    """Whoever looks, spins or is about to sleep is told that there is something."""
    scene, _ = scene_with_one_in_flight()
    spoil(scene.ring)
    with pytest.raises(RingBroken):
        scene.device.cycle([], [])
    scene.ring.put_avail_index(scene.device.indices[0])

    assert scene.device.pending()
    assert scene.device.spin(10**9)
    assert scene.device.arm()


@each_spoil
def test_malformed_index_is_forgotten_by_a_new_start(spoil: Spoil) -> None:
    """A reset makes a new ring of the same memory."""
    scene, _ = scene_with_one_in_flight()
    spoil(scene.ring)
    with pytest.raises(RingBroken):
        scene.device.cycle([], [])
    scene.ring = HandRing(scene.memory, scene.ring.geometry)
    scene.device = DeviceRing(scene.memory, scene.ring.geometry, generation=2)

    scene.assert_serves()
    assert scene.rejected() == {}


@clause("2.7.6")
def test_malformed_head_is_told_after_the_call_that_is_due() -> None:
    """The turn that finds it has a completion to announce; the next one raises."""
    scene, token = scene_with_one_in_flight()
    scene.ring.offer(SIZE)

    assert scene.device.cycle([token], [0]) == []
    assert scene.device.call_due
    assert scene.device.pending()
    with pytest.raises(RingBroken):
        scene.device.cycle([], [])
    assert not scene.device.call_due


@pytest.mark.parametrize("bad", [0, SIZE, 65535], ids=["in-flight", "the-queue-size", "65535"])
@clause("2.7.6")
def test_malformed_head_behind_good_ones_spares_them(bad: int) -> None:
    """The good part of the batch is served first; the turn after it raises."""
    scene, first = scene_with_one_in_flight()
    scene.ring.offer(3, 1, bad, 2)
    three, _, one, _ = scene.device.cycle([], [])

    assert scene.device.read(three, 0, 16) == scene.memory.read(DATA + 3, 16)
    assert scene.device.complete([first, three, one], [0, 0, 0])
    assert scene.ring.take_used() == [(0, 0), (3, 0), (1, 0)]
    with pytest.raises(RingBroken):
        scene.device.cycle([], [])


@clause("2.7.13.1")
def test_malformed_head_twice_in_one_batch_breaks_the_queue() -> None:
    scene = Scene(SIZE)
    scene.ring.desc(5, DATA, 16)
    scene.ring.offer(5, 5)

    assert len(scene.device.cycle([], [])) == 2
    with pytest.raises(RingBroken) as raised:
        scene.device.cycle([], [])
    assert raised.value.cause is Cause.HEAD_IN_FLIGHT


@clause("2.7.13.1")
def test_malformed_more_in_flight_than_the_queue_is_long_breaks_it() -> None:
    """Every head is out already, so whatever comes next is a lie."""
    scene = Scene(SIZE)
    for head in range(SIZE):
        scene.ring.desc(head, DATA, 16)
    scene.ring.offer(*range(SIZE))
    scene.device.cycle([], [])
    scene.ring.offer(3)

    with pytest.raises(RingBroken) as raised:
        scene.device.cycle([], [])
    assert raised.value.cause is Cause.HEAD_IN_FLIGHT


@clause("2.7.8")
def test_malformed_used_index_moved_by_the_driver_is_not_looked_at() -> None:
    """The device counts by itself: where it writes, and what it stores, follows its own count."""
    scene, token = scene_with_one_in_flight()
    scene.ring.put_used_index(40000)
    scene.device.cycle([token], [0])

    assert scene.ring.used_index == 1
    scene.ring.taken = 0
    assert scene.ring.take_used() == [(0, 0)]
    scene.assert_serves()


@clause("2.7.8")
def test_malformed_used_entries_written_by_the_driver_are_not_looked_at() -> None:
    scene, token = scene_with_one_in_flight()
    for index in range(SIZE):
        scene.memory.write(scene.ring.words.used_entry(index), b"\xff" * 8)
    scene.device.cycle([token], [0])

    assert scene.ring.take_used() == [(0, 0)]


@pytest.mark.parametrize("flags", [2, 0xFFFE], ids=["2", "65534"])
@clause("2.7.6")
def test_malformed_available_flags_that_do_not_exist_are_ignored(flags: int) -> None:
    scene, token = scene_with_one_in_flight(features=0)
    scene.ring.words.put(scene.ring.geometry.driver, flags)

    assert scene.device.complete([token], [0])


@pytest.mark.parametrize("event", [1, 7, 8, 40000, 65535])
@clause("2.7.7.2")
def test_malformed_used_event_only_costs_the_driver_its_call(event: int) -> None:
    """It asks for a call at an entry that does not come, and gets none."""
    scene, token = scene_with_one_in_flight()
    scene.ring.words.put(scene.ring.words.used_event, event)

    assert not scene.device.complete([token], [0])
    scene.assert_serves()


@clause("2.7.10")
def test_malformed_avail_event_overwritten_by_the_driver_is_not_looked_at() -> None:
    scene = Scene(SIZE)
    scene.device.arm()
    scene.ring.words.put(scene.ring.words.avail_event, 40000)
    scene.ring.words.put(scene.ring.geometry.device, 0xFFFF)

    scene.assert_serves()
