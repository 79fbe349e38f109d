"""The doorbell between threads and processes, with peers that misuse the shared descriptor."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.doorbells import Adaptive, EventFd

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = 2**64 - 2


@pytest.fixture
def bell() -> Iterator[EventFd]:
    bell = EventFd()
    yield bell
    bell.close()


@pytest.fixture
def peer() -> Iterator[int]:
    """Give another descriptor of an eventfd that a peer made blocking."""
    fd = os.eventfd(0, 0)
    yield fd
    os.close(fd)


@pytest.fixture
def adopted(peer: int) -> Iterator[EventFd]:
    bell = EventFd.adopt(os.dup(peer))
    yield bell
    bell.close()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_rings_merge(bell: EventFd) -> None:
    bell.ring()
    bell.ring()
    await bell.wait()

    assert not bell.wait_blocking(0)


async def test_peer_rings_by_writing(adopted: EventFd, peer: int) -> None:
    os.eventfd_write(peer, 1)
    await adopted.wait()

    assert adopted.statistics().wakes == 1
    assert adopted.statistics().rings == 0


async def test_ring_stolen_by_the_peer_leaves_a_spurious_return(
    adopted: EventFd, peer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read must not block, although the peer keeps the descriptor blocking."""
    wait_readable = trio.lowlevel.wait_readable

    async def wait_and_be_robbed(fd: int) -> None:
        await wait_readable(fd)
        os.set_blocking(peer, True)
        os.eventfd_read(peer)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_and_be_robbed)
    os.eventfd_write(peer, 1)
    await adopted.wait()

    assert not adopted.wait_blocking(0)


def test_ring_never_blocks_on_a_full_counter(adopted: EventFd, peer: int) -> None:
    os.eventfd_write(peer, FULL)
    os.set_blocking(peer, True)
    adopted.ring()

    assert os.eventfd_read(peer) == FULL


async def test_semaphore_of_a_peer_returns_once_a_ring() -> None:
    fd = os.eventfd(0, os.EFD_SEMAPHORE)
    bell = EventFd.adopt(fd)
    bell.ring()
    bell.ring()

    assert bell.wait_blocking(0)
    assert bell.wait_blocking(0)
    assert not bell.wait_blocking(0)
    bell.close()


def test_adopting_anything_else_is_refused_and_leaves_it_open() -> None:
    reader, writer = os.pipe()

    with pytest.raises(ValueError, match="no eventfd"):
        EventFd.adopt(reader)

    os.close(reader)
    os.close(writer)


def test_adopting_a_number_that_is_not_open_is_refused(peer: int) -> None:
    fd = os.dup(peer)
    os.close(fd)

    with pytest.raises(OSError):
        EventFd.adopt(fd)


def test_adopted_descriptor_is_not_inherited(peer: int) -> None:
    fd = os.dup(peer)
    os.set_inheritable(fd, True)
    bell = EventFd.adopt(fd)

    assert not os.get_inheritable(fd)
    bell.close()


def test_adaptive_adopts_as_well(peer: int) -> None:
    bell = Adaptive.adopt(os.dup(peer))

    assert bell.window is not None
    bell.close()


def test_close_closes_the_descriptor(bell: EventFd) -> None:
    fd = bell.fileno()
    bell.close()

    assert not is_open(fd)
    with pytest.raises(trio.ClosedResourceError):
        bell.fileno()
    assert bell.describe() == "eventfd"


async def test_descriptor_stays_open_until_the_waiter_has_left(
    bell: EventFd, nursery: trio.Nursery
) -> None:
    """Closed in another thread, its number could be another file's while epoll holds it."""
    fd = bell.fileno()
    left = trio.Event()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await bell.wait()
        left.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    closer = threading.Thread(target=bell.close)
    closer.start()
    closer.join()  # this run has had no turn since

    assert is_open(fd)
    await left.wait()
    assert not is_open(fd)


async def test_close_as_the_waiter_sits_down_is_noticed(
    bell: EventFd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close came before it knew whom to tell."""
    current_trio_token = trio.lowlevel.current_trio_token

    def close_first() -> trio.lowlevel.TrioToken:
        bell.close()
        return current_trio_token()

    monkeypatch.setattr(trio.lowlevel, "current_trio_token", close_first)
    with pytest.raises(trio.ClosedResourceError):
        await bell.wait()

    assert not bell.statistics().waiting


def test_close_as_a_thread_goes_to_sleep_is_noticed(
    bell: EventFd, monkeypatch: pytest.MonkeyPatch
) -> None:
    eventfd = os.eventfd

    def close_first(count: int, flags: int) -> int:
        bell.close()
        return eventfd(count, flags)

    monkeypatch.setattr(os, "eventfd", close_first)

    with pytest.raises(trio.ClosedResourceError):
        bell.wait_blocking(5)


def test_close_from_another_run_wakes_the_waiter(bell: EventFd) -> None:
    waiting = threading.Event()
    ends: list[Exception] = []

    async def wait() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_the_end)
            await trio.testing.wait_all_tasks_blocked()
            waiting.set()

    async def wait_for_the_end() -> None:
        try:
            await bell.wait()
        except trio.ClosedResourceError as error:
            ends.append(error)

    async def close() -> None:
        bell.close()

    waiter = threading.Thread(target=trio.run, args=(wait,))
    waiter.start()
    waiting.wait()
    trio.run(close)
    waiter.join()

    assert len(ends) == 1


def test_it_works_in_one_run_after_another(bell: EventFd) -> None:
    for _ in range(2):
        bell.ring()
        trio.run(bell.wait)

    assert bell.statistics().wakes == 2


def test_closing_after_its_run_is_over_closes_the_descriptor(bell: EventFd) -> None:
    bell.ring()
    trio.run(bell.wait)
    fd = bell.fileno()
    bell.close()

    assert not is_open(fd)


async def test_waiters_in_two_threads_are_one_too_many(bell: EventFd) -> None:
    refused: list[Exception] = []

    def wait_in_a_run_of_its_own() -> None:
        try:
            trio.run(bell.wait)
        except trio.BusyResourceError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(wait_in_a_run_of_its_own)
        bell.ring()

    assert len(refused) == 1


def test_blocking_wait_ends_when_time_is_up(bell: EventFd) -> None:
    assert not bell.wait_blocking(0.001)
    assert not bell.wait_blocking(-1)
    assert not bell.statistics().waiting


def test_unclosed_doorbell_is_reported_and_closed() -> None:
    bell = EventFd()
    fd = bell.fileno()

    with pytest.warns(ResourceWarning, match="not closed: eventfd"):
        del bell

    assert not is_open(fd)


def test_descriptor_is_closed_once_whatever_the_threads_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number closed twice would close somebody else's file."""
    closed: list[int] = []
    close = os.close

    def note_and_close(fd: int) -> None:
        closed.append(fd)
        close(fd)

    monkeypatch.setattr(os, "close", note_and_close)
    for _ in range(30):
        bell = EventFd()
        fd = bell.fileno()
        race_to_the_end(bell)

        assert closed == [fd]
        closed.clear()


def race_to_the_end(bell: EventFd) -> None:
    """Ring in two threads, wait in a third, close in this one."""
    started = threading.Barrier(4)

    def ring() -> None:
        started.wait()
        with contextlib.suppress(trio.ClosedResourceError):
            while True:
                bell.ring()

    async def wait() -> None:
        started.wait()
        with contextlib.suppress(trio.ClosedResourceError):
            while True:
                await bell.wait()

    threads = [threading.Thread(target=ring) for _ in range(2)]
    threads.append(threading.Thread(target=trio.run, args=(wait,)))
    for thread in threads:
        thread.start()
    started.wait()
    bell.close()
    for thread in threads:
        thread.join()
