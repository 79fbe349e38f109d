"""A device that lies: the driver's end breaks that one queue, or takes no harm.

The ids carry the clause.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paravirt.transport._driver_ring import DriverRing
from paravirt.transport._errors import Cause, RingBroken
from paravirt.transport._features import Feature
from paravirt.transport._geometry import RingGeometry
from paravirt.transport._memory import Memory

from .fenced import PAGE, fenced_region
from .hand_ring import HandRing, start_at
from .ring_scene import DATA, RINGS, clause

SIZE = 8
Spoil = Callable[["Guest"], None]


class Guest:
    """A driver under test, with three requests out, and the hand of a device that lies to it."""

    def __init__(self, *, start: int = 0, features: int = Feature.RING_EVENT_IDX) -> None:
        self.memory = Memory([fenced_region(2 * PAGE, addr=at) for at in (RINGS, DATA)])
        geometry = RingGeometry.contiguous(SIZE, RINGS, features)
        self.driver = DriverRing(self.memory, geometry)
        start_at(self.driver, self.memory, start)
        self.device = HandRing(self.memory, geometry, index=start)
        self.heads = [self._send() for _ in range(3)]
        self.driver.publish()

    def _send(self) -> int:
        head = self.driver.add([(DATA, 4)], [(DATA + 64, 8)])
        assert head is not None
        return head


def returns(*entries: tuple[int, int]) -> Spoil:
    """Return these heads, true or not."""
    return lambda guest: guest.device.put_used(*entries)


def index_moves(by: int) -> Spoil:
    return lambda guest: guest.device.put_used_index(guest.device.used_index + by)


def returns_the_first(*extra: int) -> Spoil:
    """Return the first request's head plus each of these, once each."""
    return lambda guest: guest.device.put_used(*((guest.heads[0] + more, 8) for more in extra))


# The lie, its cause, and how many good completions stand before it in the batch.
CASES: list[tuple[str, Cause, int, Spoil]] = [
    ("2.7.8-index-runs-one-too-far", Cause.USED_INDEX, 0, index_moves(4)),
    ("2.7.8-index-jumps", Cause.USED_INDEX, 0, index_moves(32768)),
    ("2.7.8-index-goes-back", Cause.USED_INDEX, 0, index_moves(-1)),
    ("2.7.8-id-is-the-queue-size", Cause.USED_ID, 0, returns((SIZE, 0))),
    ("2.7.8-id-is-2^32-1", Cause.USED_ID, 0, returns((0xFFFFFFFF, 0))),
    ("2.7.8-id-is-right-in-its-low-half", Cause.USED_ID, 0, returns_the_first(1 << 16)),
    ("2.7.8-id-is-not-the-head-of-its-chain", Cause.USED_ID, 0, returns_the_first(1)),
    ("2.7.8-id-was-never-offered", Cause.USED_ID, 0, returns((SIZE - 1, 0))),
    ("2.7.8-id-twice", Cause.USED_ID, 1, returns_the_first(0, 0)),
    ("2.7.8-id-wrong-behind-a-good-one", Cause.USED_ID, 1, returns_the_first(0, 100)),
]


@pytest.mark.parametrize("start", [0, 65534], ids=["from-0", "over-65535"])
@pytest.mark.parametrize(
    ("cause", "good", "spoil"),
    [pytest.param(cause, good, spoil, id=name) for name, cause, good, spoil in CASES],
)
def test_malformed_completion_breaks_the_queue(
    cause: Cause, good: int, spoil: Spoil, start: int
) -> None:
    """What stands before it in the batch is handed over first."""
    guest = Guest(start=start)
    spoil(guest)
    taken = [guest.driver.reap() for _ in range(good)]

    assert taken == [[guest.heads[0], 8]] * good
    for _ in range(2):
        with pytest.raises(RingBroken) as raised:
            guest.driver.reap()
        assert raised.value.cause is cause
    with pytest.raises(RingBroken):
        guest.driver.add([(DATA, 4)])
    with pytest.raises(RingBroken):
        guest.driver.add_many([(DATA, 4, DATA, 4)])


@pytest.mark.parametrize(
    "spoil", [pytest.param(spoil, id=name) for name, _, good, spoil in CASES if not good]
)
def test_malformed_completion_ends_a_wait(spoil: Spoil) -> None:
    """Whoever looks, spins or is about to sleep is told that there is something."""
    guest = Guest()
    spoil(guest)
    with pytest.raises(RingBroken):
        guest.driver.reap()
    guest.device.put_used_index(guest.driver.indices[1])

    assert guest.driver.pending()
    assert guest.driver.spin(10**9)
    assert guest.driver.arm()


@clause("2.7.8")
def test_malformed_completion_of_what_was_not_published_breaks_the_queue() -> None:
    """It was added, but the device had not been shown it."""
    guest = Guest()
    guest.device.put_used(*((head, 0) for head in guest.heads))
    guest.driver.reap()
    head = guest.driver.add([(DATA, 4)])
    guest.device.put_used((head or 0, 0))

    with pytest.raises(RingBroken) as raised:
        guest.driver.reap()
    assert raised.value.cause is Cause.USED_INDEX


@clause("2.7.8")
def test_malformed_completion_spares_the_other_queue_of_the_driver() -> None:
    guest, other = Guest(), Guest()
    guest.device.put_used((SIZE, 0))
    other.device.put_used((other.heads[1], 3))
    with pytest.raises(RingBroken):
        guest.driver.reap()

    assert other.driver.reap() == [other.heads[1], 3]


@pytest.mark.parametrize(
    ("claimed", "taken"),
    [
        pytest.param(9, 8, id="2.7.8.3-one-too-many"),
        pytest.param(0xFFFFFFFF, 8, id="2.7.8.3-2^32-1"),
        pytest.param(0, 0, id="2.7.8.3-nothing-written"),
    ],
)
def test_malformed_length_is_cut_to_what_was_writable(claimed: int, taken: int) -> None:
    guest = Guest()
    guest.device.put_used((guest.heads[2], claimed))

    assert guest.driver.reap() == [guest.heads[2], taken]


@clause("2.7.5.1")
def test_malformed_device_that_writes_into_the_drivers_areas_confuses_nothing() -> None:
    """The driver remembers its chains by itself, so it can fill the queue again and again."""
    guest = Guest()
    geometry = guest.device.geometry
    for _ in range(20):
        guest.memory.write(geometry.desc, b"\xff" * 16 * SIZE)
        guest.memory.write(geometry.driver + 4, b"\xff" * 2 * SIZE)
        guest.device.put_used(*((head, 8) for head in guest.heads))
        guest.driver.reap()

        assert guest.driver.free == SIZE
        requests = [(DATA, 4, DATA + 64, 8)] * (SIZE // 2)
        guest.heads = guest.driver.add_many(requests)
        guest.driver.publish()
        assert sorted({*guest.heads}) == sorted(guest.heads)
        assert len(guest.heads) == SIZE // 2


@pytest.mark.parametrize("event", [4, 40000, 65535])
@clause("2.7.10")
def test_malformed_avail_event_only_costs_the_device_its_kick(event: int) -> None:
    guest = Guest()
    guest.device.words.put(guest.device.words.avail_event, event)
    guest.driver.add([(DATA, 4)])

    assert not guest.driver.publish()


@clause("2.7.10")
def test_malformed_used_flags_that_do_not_exist_are_ignored() -> None:
    guest = Guest(features=0)
    guest.device.words.put(guest.device.geometry.device, 0xFFFE)
    guest.driver.add([(DATA, 4)])

    assert guest.driver.publish()
