"""Looking instead of being told."""

from __future__ import annotations

import os

import pytest
import trio

from paravirt.doorbells import Adaptive, Polling, SpinWindow
from paravirt.doorbells._window import RETRY_SLEEPS


async def test_polling_wait_returns_without_a_ring() -> None:
    bell = Polling()
    await bell.wait()

    assert bell.wait_blocking()
    assert not bell.notifies
    assert bell.fileno() is None


async def test_polling_wait_lets_others_run(nursery: trio.Nursery) -> None:
    ran = trio.Event()
    bell = Polling()

    async def other() -> None:
        ran.set()

    nursery.start_soon(other)
    await bell.wait()
    await bell.wait()  # the first may come back before a task of the same turn

    assert ran.is_set()


async def test_polling_closed_while_others_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closed it may have taken the ring away, so nobody must look again."""
    bell = Polling()

    async def close() -> None:
        bell.close()

    monkeypatch.setattr(trio.lowlevel, "checkpoint", close)
    with pytest.raises(trio.ClosedResourceError):
        await bell.wait()


def test_polling_closed_while_other_threads_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    bell = Polling()

    monkeypatch.setattr(os, "sched_yield", bell.close)
    with pytest.raises(trio.ClosedResourceError):
        bell.wait_blocking()


def test_windows_of_an_own_choice_are_taken() -> None:
    window = SpinWindow(7_000)
    adaptive = Adaptive(window=window)

    assert Polling(window=window).window is window
    assert adaptive.window is window
    assert (
        adaptive.describe() == f"adaptive, looks for 7 us (0 to 50), descriptor {adaptive.fileno()}"
    )
    adaptive.close()


@pytest.mark.parametrize("cpus", [1, 2])
def test_nobody_looks_where_the_peer_needs_this_cpu(
    cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def affinity(pid: int) -> set[int]:
        assert pid == 0
        return set(range(cpus))

    monkeypatch.setattr(os, "sched_getaffinity", affinity)
    adaptive, polling = Adaptive(), Polling()
    adaptive.close()

    assert adaptive.window is not None
    assert polling.window is not None
    assert (adaptive.window.ns > 0) == (cpus > 1)
    assert (polling.window.ns > 0) == (cpus > 1)


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_waiter_that_is_pinned_learns_whether_its_peer_runs_elsewhere(
    cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a host with one CPU there is nothing to learn."""

    def affinity(pid: int) -> set[int]:
        del pid
        return {0}

    monkeypatch.setattr(os, "sched_getaffinity", affinity)
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    adaptive = Adaptive()
    adaptive.close()
    assert adaptive.window is not None
    for _ in range(RETRY_SLEEPS):
        adaptive.window.miss()

    assert (adaptive.window.ns > 0) == (cpus > 1)


def test_window_shows_in_the_statistics() -> None:
    window = SpinWindow(10_000)
    bell = Polling(window=window)
    window.hit()
    window.miss()
    window.miss()
    statistics = bell.statistics()

    assert (statistics.window_ns, statistics.hits, statistics.misses) == (5_000, 1, 2)
