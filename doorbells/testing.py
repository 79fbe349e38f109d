"""The contract of a doorbell as a function, for anyone's doorbell."""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING, Final

import trio
import trio.testing

from ._subject import MANY, Ringer, Sleeper, Subject, expect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._base import Doorbell, DoorbellMaker

# How long a wait that must return may take: far above the 25-60 us of a wake, so that only a hang
# or a machine in trouble gets there.
_PATIENCE: Final = 5.0


async def check_doorbell(
    maker: DoorbellMaker, ringer: Ringer | None = None, *, patience: float = _PATIENCE
) -> None:
    """Check each clause of the contract on a fresh doorbell from `maker`.

    `ringer(bell)` rings as the other side does where that is not `bell.ring()`; it runs in a worker
    thread. Raises AssertionError that names the clause and what happened, after `patience` seconds
    if something did not. Doorbells that are bound to one thread may be checked under a mock clock.
    """
    for check in _CHECKS:
        bell = maker()
        try:
            await check(Subject(bell, ringer, patience))
        except (AssertionError, ExceptionGroup) as error:
            clause = check.__name__.strip("_").replace("_", " ")
            reason = _first_failure(error)
            if reason is None:
                raise
            raise AssertionError(f"{bell.describe()}: {clause}: {reason}") from error
        finally:
            bell.close()


def _first_failure(error: AssertionError | ExceptionGroup[Exception]) -> AssertionError | None:
    if isinstance(error, AssertionError):
        return error
    group = error.subgroup(AssertionError)
    while group is not None:
        first = group.exceptions[0]
        if isinstance(first, AssertionError):
            return first
        group = first
    return None


async def _a_ring_is_kept_until_the_next_wait(subject: Subject) -> None:
    for _ in range(3):
        await subject.ring()
        await subject.must_return("wait() did not return after a ring that came before it")


async def _a_ring_wakes_a_sleeping_waiter(subject: Subject) -> None:
    for _ in range(3):
        async with subject.sleeper() as sleeper:
            await subject.ring()
            await sleeper.must_return("a sleeping wait() did not return after a ring")


async def _its_own_ring_wakes_as_well(subject: Subject) -> None:
    async with subject.sleeper() as sleeper:
        subject.bell.ring()
        await sleeper.must_return("a sleeping wait() did not return after bell.ring()")


async def _every_wait_is_a_checkpoint(subject: Subject) -> None:
    await subject.ring()
    with trio.testing.assert_checkpoints():
        await subject.must_return("wait() did not return after a ring")


async def _the_waiter_sleeps_when_nobody_rings(subject: Subject) -> None:
    for _ in range(MANY):
        await subject.ring()
    async with subject.sleeper() as sleeper:
        asleep = not sleeper.returned
    expect(asleep or not subject.bell.notifies, f"wait() goes on returning after {MANY} rings")


async def _a_cancelled_wait_consumes_nothing(subject: Subject) -> None:
    await subject.ring()
    with trio.CancelScope() as scope:
        scope.cancel()
        await subject.bell.wait()
    if scope.cancelled_caught:
        await subject.must_return(
            "the ring was gone after a wait() that was cancelled at its start"
        )
    async with subject.sleeper() as sleeper:
        sleeper.scope.cancel()
        await sleeper.must_end("a sleeping wait() could not be cancelled")
    await subject.ring()
    await subject.must_return("wait() did not return after one that was cancelled in its sleep")
    for cancel_first in (True, False):
        await _cancel_with_a_ring(subject, cancel_first=cancel_first)


async def _cancel_with_a_ring(subject: Subject, *, cancel_first: bool) -> None:
    async with subject.sleeper() as sleeper:
        if cancel_first:
            sleeper.scope.cancel()
        subject.bell.ring()
        sleeper.scope.cancel()
        await sleeper.must_end("wait() neither returned nor was cancelled")
        returned = sleeper.returned
    if not returned:
        await subject.must_return("a ring was lost that came together with a cancellation")


async def _a_second_waiter_is_refused(subject: Subject) -> None:
    first, second = Sleeper(subject), Sleeper(subject)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        nursery.start_soon(second.run)
        await trio.testing.wait_all_tasks_blocked()
        errors = [error for error in (first.error, second.error) if error is not None]
        expect(
            [type(error) for error in errors] == [trio.BusyResourceError],
            f"two waiters at once should give one trio.BusyResourceError, not {errors}",
        )
        if subject.bell.notifies:
            _a_blocking_one_is_refused_too(subject.bell)
        await subject.ring()
        patient = first if first.error is None else second
        await patient.must_return("the first waiter did not return after the second was refused")


def _a_blocking_one_is_refused_too(bell: Doorbell) -> None:
    with contextlib.suppress(trio.BusyResourceError):
        bell.wait_blocking(0)
        raise AssertionError("wait_blocking() beside wait() should raise trio.BusyResourceError")


async def _closing_wakes_the_waiter(subject: Subject) -> None:
    async with subject.sleeper() as sleeper:
        subject.bell.close()
        await _must_be_told(subject, sleeper)


async def _closing_from_another_thread_wakes_the_waiter(subject: Subject) -> None:
    async with subject.sleeper() as sleeper:
        await trio.to_thread.run_sync(subject.bell.close)
        await _must_be_told(subject, sleeper)


async def _must_be_told(subject: Subject, sleeper: Sleeper) -> None:
    await sleeper.must_end("a sleeping wait() did not notice close()")
    if subject.bell.notifies:
        expect(
            isinstance(sleeper.error, trio.ClosedResourceError),
            f"wait() should raise trio.ClosedResourceError, not end with {sleeper.error!r}",
        )


async def _nothing_works_after_closing_but_closing(subject: Subject) -> None:
    bell = subject.bell
    bell.ring()
    bell.close()
    bell.close()
    for name, call in (("ring", bell.ring), ("wait_blocking", lambda: bell.wait_blocking(0))):
        with contextlib.suppress(trio.ClosedResourceError):
            call()
            raise AssertionError(f"{name}() should raise trio.ClosedResourceError after close()")
    with contextlib.suppress(trio.ClosedResourceError):
        await subject.must_return("wait() slept after close()")
        raise AssertionError("wait() should raise trio.ClosedResourceError after close()")


async def _a_ring_from_another_thread_wakes_or_is_refused(subject: Subject) -> None:
    async with subject.sleeper() as sleeper:
        if await subject.refuses_threads():
            return
        await sleeper.must_return("wait() did not return after a ring from another thread")


async def _no_ring_is_lost_under_load(subject: Subject) -> None:
    posted = 0

    def post_all() -> None:
        nonlocal posted
        for _ in range(MANY):
            posted += 1
            subject.ring_here()

    async def post_all_here() -> None:
        nonlocal posted
        for _ in range(MANY):
            posted += 1
            subject.bell.ring()
            await trio.lowlevel.checkpoint()

    subject.bell.ring()
    refuses_threads = await subject.refuses_threads()
    async with trio.open_nursery() as nursery:
        if refuses_threads:
            nursery.start_soon(post_all_here)
        else:
            nursery.start_soon(trio.to_thread.run_sync, post_all)
        while posted < MANY:
            await subject.must_return(f"wait() slept after {posted} of {MANY} posts were rung")


async def _a_thread_without_trio_can_wait(subject: Subject) -> None:
    bell = subject.bell
    bell.ring()
    expect(bell.wait_blocking(0), "wait_blocking(0) should return True after a ring")
    if bell.notifies:
        expect(
            not all(bell.wait_blocking(0) for _ in range(MANY)),
            "wait_blocking(0) should return False when nobody rings",
        )
    if await subject.refuses_threads():
        return
    bell.wait_blocking(0)
    outcome = await _end_of_blocking_wait(subject, subject.ring)
    expect(outcome is True, f"wait_blocking() should return True after a ring, not {outcome!r}")
    outcome = await _end_of_blocking_wait(subject, subject.close)
    if bell.notifies:
        expect(
            isinstance(outcome, trio.ClosedResourceError),
            f"wait_blocking() should raise trio.ClosedResourceError on close(), not {outcome!r}",
        )


async def _end_of_blocking_wait(
    subject: Subject, act: Callable[[], Awaitable[None]]
) -> bool | trio.ClosedResourceError | None:
    outcome: bool | trio.ClosedResourceError | None = None

    async def block() -> None:
        nonlocal outcome
        try:
            outcome = await trio.to_thread.run_sync(subject.bell.wait_blocking, subject.patience)
        except trio.ClosedResourceError as error:
            outcome = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(block)
        with trio.move_on_after(subject.patience):
            while outcome is None and not subject.bell.statistics().waiting:
                await trio.lowlevel.checkpoint()
        await act()
    return outcome


async def _it_tells_what_it_is_and_has_done(subject: Subject) -> None:
    bell = subject.bell
    expect(bool(bell.name and bell.describe()), "name and describe() should not be empty")
    before = bell.statistics()
    bell.ring()
    descriptor = bell.fileno()
    if descriptor is not None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        expect(bool(poll.poll(0)), "fileno() should be readable after a ring")
    await subject.must_return("wait() did not return after a ring")
    after = bell.statistics()
    expect(after.rings == before.rings + 1, "statistics().rings should count bell.ring()")
    expect(after.wakes > before.wakes, "statistics().wakes should count a wait that returned")


_CHECKS: Final = (
    _a_ring_is_kept_until_the_next_wait,
    _a_ring_wakes_a_sleeping_waiter,
    _its_own_ring_wakes_as_well,
    _every_wait_is_a_checkpoint,
    _the_waiter_sleeps_when_nobody_rings,
    _a_cancelled_wait_consumes_nothing,
    _a_second_waiter_is_refused,
    _closing_wakes_the_waiter,
    _closing_from_another_thread_wakes_the_waiter,
    _nothing_works_after_closing_but_closing,
    _a_ring_from_another_thread_wakes_or_is_refused,
    _no_ring_is_lost_under_load,
    _a_thread_without_trio_can_wait,
    _it_tells_what_it_is_and_has_done,
)
