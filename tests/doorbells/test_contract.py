"""`check_doorbell` passes our own kinds and says what is wrong with others."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from paravirt.doorbells import KINDS, Direct, Doorbell, EventFd
from paravirt.doorbells.testing import check_doorbell

IMPATIENT = 0.5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_own_kinds_keep_the_contract(kind: type[Doorbell]) -> None:
    await check_doorbell(kind)


async def test_direct_keeps_the_contract_under_a_mock_clock(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await check_doorbell(Direct)


async def test_ringer_rings_from_a_worker_thread() -> None:
    threads: set[int] = set()

    def ring_as_a_guest(bell: Doorbell) -> None:
        threads.add(threading.get_ident())
        fd = bell.fileno()
        assert fd is not None
        with open(fd, "wb", buffering=0, closefd=False) as guest:
            guest.write((1).to_bytes(8, "little"))

    await check_doorbell(EventFd, ring_as_a_guest)

    assert threads
    assert threading.get_ident() not in threads


class LosesEarlyRings(Direct):
    """Rings only for somebody who waits."""

    def ring(self) -> None:
        super().ring()
        if not self.statistics().waiting:
            self._rung = trio.Event()


class ConsumesWhenCancelled(Direct):
    """Takes the ring before it is sure to return."""

    async def wait(self) -> None:
        try:
            await super().wait()
        except trio.Cancelled:
            self._rung = trio.Event()
            raise


class ReturnsAtOnce(Direct):
    """Is no checkpoint when rung."""

    async def wait(self) -> None:
        if self._rung.is_set():
            self._take()
        else:
            await super().wait()


class NeverWakesOnClose(Direct):
    """Leaves its waiter asleep."""

    def _wake_task(self) -> None:
        pass


class SeatsEverybody(Direct):
    """Knows no second waiter."""

    def _sit(self) -> None:
        self._check_open()
        self._seat = [None]


class NeverSleeps(Direct):
    """Keeps what was rung."""

    def _take(self) -> None:
        super()._take()
        self._rung.set()


class RingsWhenClosed(Direct):
    """Takes rings for nobody."""

    def ring(self) -> None:
        if not self.statistics().closed:
            super().ring()


class ClosesOnce(Direct):
    """Minds a second close."""

    def close(self) -> None:
        self._check_open()
        super().close()


class HidesTheEnd(EventFd):
    """Does not tell a thread that it was closed."""

    def wait_blocking(self, timeout: float | None = None) -> bool:
        if timeout == 0:
            return super().wait_blocking(timeout)
        try:
            return super().wait_blocking(timeout)
        except trio.ClosedResourceError:
            return False


class BoundByMistake(EventFd):
    """Drops rings from other threads."""

    def ring(self) -> None:
        if threading.current_thread() is threading.main_thread():
            super().ring()


class CountsNothing(Direct):
    """Has statistics that stand still."""

    def ring(self) -> None:
        super().ring()
        self._rings = 0


@pytest.mark.parametrize(
    ("kind", "clause"),
    [
        (LosesEarlyRings, "a ring is kept until the next wait: .*came before it"),
        (ConsumesWhenCancelled, "a cancelled wait consumes nothing: the ring was gone"),
        (ReturnsAtOnce, "every wait is a checkpoint"),
        (NeverWakesOnClose, "closing wakes the waiter: .*did not notice"),
        (SeatsEverybody, r"a second waiter is refused: .*not \[\]"),
        (NeverSleeps, "the waiter sleeps when nobody rings"),
        (RingsWhenClosed, r"nothing works after closing but closing: ring\(\)"),
        (CountsNothing, "it tells what it is and has done: .*rings"),
    ],
    ids=lambda case: case.__name__ if isinstance(case, type) else "",
)
async def test_broken_doorbell_is_named_by_its_clause(
    kind: type[Direct],
    clause: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(AssertionError, match=f"^direct: {clause}"):
        await check_doorbell(kind)


@pytest.mark.parametrize(
    ("kind", "clause"),
    [
        (HidesTheEnd, "a thread without trio can wait: .*on close"),
        (BoundByMistake, "a ring from another thread wakes or is refused"),
    ],
    ids=lambda case: case.__name__ if isinstance(case, type) else "",
)
async def test_doorbell_broken_between_threads_is_named(kind: type[EventFd], clause: str) -> None:
    with pytest.raises(AssertionError, match=f"^eventfd.*: {clause}"):
        await check_doorbell(kind, patience=IMPATIENT)


async def test_other_exceptions_of_a_doorbell_are_not_hidden() -> None:
    with pytest.raises(trio.ClosedResourceError):
        await check_doorbell(ClosesOnce)


async def test_checked_doorbells_are_closed() -> None:
    made: list[EventFd] = []

    def make() -> EventFd:
        made.append(EventFd())
        return made[-1]

    await check_doorbell(make)

    assert all(bell.statistics().closed for bell in made)
