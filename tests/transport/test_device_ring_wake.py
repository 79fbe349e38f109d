"""Whom the device's end wakes, and how it asks to be woken."""

from __future__ import annotations

import threading

import pytest

from paravirt.transport._device_ring import DeviceRing

from .hand_ring import HandRing
from .ring_scene import DATA, EVENT_IDX, Scene, one, ready


def test_a_call_is_due_unless_the_driver_wants_none() -> None:
    """2.7.7.2: without EVENT_IDX a flag of the driver ring says so."""
    scene = ready(2)
    first, _, second, _ = scene.device.cycle([], [])
    wanted = scene.device.complete([first], [0])
    scene.ring.words.put(scene.ring.geometry.driver, 1)

    assert wanted
    assert not scene.device.complete([second], [0])


@pytest.mark.parametrize(
    ("event", "due"),
    [(65533, False), (65534, True), (65535, True), (0, True), (1, False), (30000, False)],
)
def test_a_call_is_due_when_the_index_passes_the_event(event: int, due: bool) -> None:
    """2.7.7.2: the three entries used here are number 65534, 65535 and 0."""
    scene = Scene(8, EVENT_IDX)
    ring = HandRing(scene.memory, scene.ring.geometry, index=65534)
    device = DeviceRing(scene.memory, ring.geometry, avail=65534, used=65534)
    for head in range(3):
        ring.desc(head, DATA, 4)
    ring.offer(0, 1, 2)
    ring.words.put(ring.words.used_event, event)
    ring.words.put(ring.geometry.driver, 1)  # 2.7.7.2: not looked at
    tokens = device.cycle([], [])[::2]
    device.cycle(tokens, [0] * 3)

    assert device.call_due == due
    assert ring.take_used() == [(0, 0), (1, 0), (2, 0)]


def test_no_call_is_due_without_completions() -> None:
    scene = ready(1)
    scene.device.cycle([], [])
    first = scene.device.call_due
    scene.device.cycle([], [])

    assert (first, scene.device.call_due) == (False, False)


def test_asking_for_a_kick_clears_the_flag() -> None:
    """2.7.10."""
    scene = ready(0)
    scene.device.disarm()
    before = scene.ring.words.get(scene.ring.geometry.device)
    scene.device.arm()

    assert (before, scene.ring.words.get(scene.ring.geometry.device)) == (1, 0)


def test_asking_for_a_kick_names_the_next_entry() -> None:
    """2.7.10.2: with EVENT_IDX the flag stays 0."""
    scene = ready(2, features=EVENT_IDX)
    scene.device.cycle([], [])
    scene.device.arm()

    assert not scene.ring.words.kick_needed(1, 2)
    assert scene.ring.words.kick_needed(2, 3)
    scene.device.disarm()
    assert not scene.ring.words.kick_needed(0, 10)
    assert scene.ring.words.get(scene.ring.geometry.device) == 0


@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_arming_looks_again(features: int) -> None:
    scene = ready(0, features=features)

    assert not scene.device.arm()
    scene.ring.offer(0)
    assert scene.device.arm()


def test_a_turn_spins_until_another_thread_offers_a_chain() -> None:
    scene = ready(0)
    driver = threading.Thread(target=scene.ring.offer, args=(0,))
    driver.start()

    assert scene.device.cycle([], [], 10**10)[1::2] == [4 << 32 | 8]
    driver.join()


def test_a_turn_does_not_spin_when_a_call_is_due() -> None:
    """The driver waits for it, and may have nothing more to offer before."""
    scene = ready(1)

    assert scene.device.cycle([one(scene)], [8], 10**12) == []
    assert scene.device.call_due


def test_a_spin_ends() -> None:
    scene = ready(0)

    assert not scene.device.spin(1000)
    assert scene.device.cycle([], [], 1000) == []


def test_a_spin_is_one_look_if_the_driver_cannot_run_meanwhile() -> None:
    scene = ready(0)
    scene.device.concurrent = False

    assert not scene.device.spin(10**12)
    assert scene.device.cycle([], [], 10**12) == []
