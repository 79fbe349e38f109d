"""`wait_for_work` loses no wakeup, wherever the peer publishes, and is undone by a cancellation."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.doorbells import (
    KINDS,
    Adaptive,
    Direct,
    Doorbell,
    DoorbellMaker,
    EventFd,
    Polling,
    SpinWindow,
    wait_for_work,
    wait_for_work_blocking,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

LOOK = ("pending", "spin")
SLEEP = ("arm", "armed", "looked")
STEPS: list[tuple[str, DoorbellMaker, tuple[str, ...]]] = [
    ("direct", Direct, SLEEP),
    ("eventfd", EventFd, SLEEP),
    ("adaptive", lambda: Adaptive(window=SpinWindow()), LOOK + SLEEP),
    ("polling", lambda: Polling(window=SpinWindow()), LOOK),
]
AT_EACH_STEP = pytest.mark.parametrize(
    ("maker", "step"),
    [
        pytest.param(maker, step, id=f"{name}-{step}")
        for name, maker, steps in STEPS
        for step in steps
    ],
)
MANY = 2_000


class Ring:
    """A ring of nothing but counters that can be met by its peer at any step of a waiter."""

    def __init__(self, bell: Doorbell, meet: dict[str, Callable[[], None]] | None = None) -> None:
        self.bell = bell
        self.meet = meet or {}
        self.steps: list[str] = []
        self.armed = False
        self.published = 0
        self.taken = 0

    def publish(self) -> None:
        """Do what a peer does: publish, then ring if asked to."""
        self.published += 1
        if self.armed:
            self.bell.ring()

    def take(self) -> int:
        """Take all there is."""
        found = self.published - self.taken
        self.taken += found
        return found

    def step(self, name: str) -> None:
        self.steps.append(name)
        if name in self.meet:
            self.meet.pop(name)()

    def pending(self) -> bool:
        self.step("pending")
        return self.published > self.taken

    def arm(self) -> bool:
        self.step("arm")
        self.armed = True
        self.step("armed")
        found = self.published > self.taken
        self.step("looked")
        return found

    def disarm(self) -> None:
        self.step("disarm")
        self.armed = False

    def spin(self, ns: int) -> bool:
        assert ns > 0
        self.step("spin")
        return self.published > self.taken


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def bell(request: pytest.FixtureRequest) -> Iterator[Doorbell]:
    kind: type[Doorbell] = request.param
    bell = kind()
    yield bell
    bell.close()


@pytest.fixture
def adaptive() -> Iterator[Adaptive]:
    bell = Adaptive(window=SpinWindow(20_000))
    yield bell
    bell.close()


@AT_EACH_STEP
async def test_work_published_at_any_step_is_found(maker: DoorbellMaker, step: str) -> None:
    with contextlib.closing(maker()) as bell:
        ring = Ring(bell)
        ring.meet[step] = ring.publish
        with trio.testing.assert_checkpoints():
            await wait_for_work(bell, ring)

    assert ring.take() == 1
    assert not ring.armed


async def test_work_published_while_asleep_is_found(bell: Doorbell, nursery: trio.Nursery) -> None:
    async def publish_later() -> None:
        for _ in range(10):  # by now a waiter sleeps, or has looked a few times
            await trio.lowlevel.checkpoint()
        ring.publish()

    ring = Ring(bell)
    nursery.start_soon(publish_later)
    await wait_for_work(bell, ring)

    assert ring.take() == 1
    assert not ring.armed


@pytest.mark.parametrize("kind", [Direct, EventFd, Adaptive], ids=lambda kind: kind.name)
async def test_cancelled_in_its_sleep_it_disarms_and_consumes_nothing(
    kind: type[Doorbell], nursery: trio.Nursery
) -> None:
    bell = kind()
    ring = Ring(bell)
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope:
            await wait_for_work(bell, ring)

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    assert ring.armed
    scope.cancel()
    bell.ring()
    await trio.testing.wait_all_tasks_blocked()

    assert not ring.armed
    await bell.wait()
    bell.close()


async def test_cancelled_at_once_it_never_arms(bell: Doorbell) -> None:
    ring = Ring(bell)
    with trio.CancelScope() as scope:
        scope.cancel()
        await wait_for_work(bell, ring)

    assert scope.cancelled_caught
    assert not ring.armed


async def test_closed_while_it_sleeps_it_disarms(bell: Doorbell) -> None:
    ring = Ring(bell, {"pending": bell.close, "looked": bell.close})
    with pytest.raises(trio.ClosedResourceError):
        await wait_for_work(bell, ring)

    assert not ring.armed


async def test_failure_to_arm_is_passed_on_and_disarmed() -> None:
    def fail() -> None:
        raise RuntimeError("ring broken")

    bell = Direct()
    ring = Ring(bell, {"armed": fail})
    with pytest.raises(RuntimeError, match="ring broken"):
        await wait_for_work(bell, ring)

    assert not ring.armed


async def test_without_a_window_it_sleeps_at_once() -> None:
    bell = Direct()
    ring = Ring(bell)
    ring.meet["looked"] = ring.publish
    await wait_for_work(bell, ring)

    assert ring.steps == ["arm", "armed", "looked", "disarm"]


@pytest.mark.parametrize("step", LOOK)
async def test_found_in_the_window_nothing_is_armed(adaptive: Adaptive, step: str) -> None:
    ring = Ring(adaptive)
    ring.meet[step] = ring.publish
    await wait_for_work(adaptive, ring)

    assert ring.steps[-1] == step
    assert adaptive.statistics().hits == 1


async def test_not_found_in_the_window_it_arms_and_sleeps(adaptive: Adaptive) -> None:
    ring = Ring(adaptive)
    ring.meet["looked"] = ring.publish
    await wait_for_work(adaptive, ring)

    assert ring.steps == ["pending", "spin", "arm", "armed", "looked", "disarm"]
    assert adaptive.statistics().misses == 1


async def test_shut_window_costs_no_look_but_counts_the_sleep() -> None:
    bell = Adaptive(window=SpinWindow(0))
    ring = Ring(bell)
    ring.meet["looked"] = ring.publish
    await wait_for_work(bell, ring)

    assert ring.steps == ["arm", "armed", "looked", "disarm"]
    assert bell.statistics().misses == 1
    bell.close()


async def test_caller_who_has_looked_leaves_out_the_first_look(adaptive: Adaptive) -> None:
    ring = Ring(adaptive)
    ring.meet["looked"] = ring.publish
    await wait_for_work(adaptive, ring, look=False)

    assert ring.steps == ["arm", "armed", "looked", "disarm"]
    assert adaptive.statistics().misses == 0


async def test_polling_looks_again_and_again_and_never_arms() -> None:
    bell = Polling(window=SpinWindow(1_000, fixed=True))
    ring = Ring(bell)
    ring.meet["spin"] = lambda: ring.meet.update(spin=ring.publish)
    await wait_for_work(bell, ring)

    assert ring.steps == ["pending", "spin"] * 2
    assert not ring.armed


def test_blocking_wait_is_false_when_time_is_up(bell: Doorbell) -> None:
    ring = Ring(bell)

    assert not wait_for_work_blocking(bell, ring, 0)
    assert not ring.armed


@AT_EACH_STEP
def test_blocking_wait_finds_work_published_at_any_step(maker: DoorbellMaker, step: str) -> None:
    with contextlib.closing(maker()) as bell:
        ring = Ring(bell)
        ring.meet[step] = ring.publish

        assert wait_for_work_blocking(bell, ring, 5)
    assert ring.take() == 1
    assert not ring.armed


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads interrupt each other as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@contextlib.contextmanager
def peer_in_a_thread(kind: type[Doorbell]) -> Generator[Ring, None, None]:
    """Publish the next as soon as the last is taken: each time the waiter is about to sleep."""
    with contextlib.closing(kind()) as bell:
        ring = Ring(bell)
        peer = threading.Thread(target=publish_in_turns, args=(ring,))
        peer.start()
        try:
            yield ring
        finally:
            ring.taken = MANY
            peer.join()


def publish_in_turns(ring: Ring) -> None:
    for turn in range(MANY):
        while ring.taken < turn:
            pass
        ring.publish()


# Polling has no wakeup to lose.
@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("kind", [EventFd, Adaptive], ids=lambda kind: kind.name)
async def test_no_wakeup_is_lost_between_threads(kind: type[Doorbell]) -> None:
    with peer_in_a_thread(kind) as ring:
        while ring.taken < MANY:
            await wait_for_work(ring.bell, ring)
            ring.take()


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("kind", [EventFd, Adaptive], ids=lambda kind: kind.name)
def test_no_wakeup_is_lost_between_threads_without_trio(kind: type[Doorbell]) -> None:
    with peer_in_a_thread(kind) as ring:
        while ring.taken < MANY:
            assert wait_for_work_blocking(ring.bell, ring, 30)
            ring.take()
