"""The doorbell of one trio run."""

from __future__ import annotations

import pytest
import trio

from paravirt.doorbells import Direct


@pytest.fixture
def bell() -> Direct:
    return Direct()


async def test_rings_merge(bell: Direct) -> None:
    bell.ring()
    bell.ring()
    await bell.wait()

    assert not bell.wait_blocking(0)


async def test_ring_from_another_thread_is_refused_with_the_way_out(bell: Direct) -> None:
    bell.ring()

    with pytest.raises(RuntimeError, match="EventFd"):
        await trio.to_thread.run_sync(bell.ring)


async def test_it_belongs_to_the_thread_that_uses_it_first(bell: Direct) -> None:
    await trio.to_thread.run_sync(bell.ring)

    with pytest.raises(RuntimeError, match="EventFd"):
        await bell.wait()


def test_it_works_in_one_run_after_another(bell: Direct) -> None:
    for _ in range(2):
        bell.ring()
        trio.run(bell.wait)

    assert bell.statistics().wakes == 2


async def test_sleeping_in_its_only_thread_is_refused(bell: Direct) -> None:
    with pytest.raises(RuntimeError, match="EventFd"):
        bell.wait_blocking()


async def test_blocking_wait_takes_a_ring(bell: Direct) -> None:
    bell.ring()

    assert bell.wait_blocking()
    assert not bell.wait_blocking(0)


def test_it_can_be_closed_after_its_run(bell: Direct) -> None:
    bell.ring()
    trio.run(bell.wait)
    bell.close()

    with pytest.raises(trio.ClosedResourceError):
        trio.run(bell.wait)


def test_it_has_no_descriptor(bell: Direct) -> None:
    assert bell.fileno() is None
    assert bell.describe() == "direct"
