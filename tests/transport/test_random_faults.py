"""Faults at random, from a seed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from paravirt.doorbells import EventFd
from paravirt.guestside import DeviceNeedsReset, Driver, SyncDriver
from paravirt.transport import Faults, Feature
from tests.devices import Upper, served

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from trio.testing import MockClock

    from paravirt.transport._faults import Fault, Way

HANG = 1000.0  # seconds of the mock clock, which jumps there at once if nobody can go on
SEEDS = 150
NO_EVENT_IDX = ~int(Feature.RING_EVENT_IDX)
WAYS: list[Way] = ["kick", "call"]


async def run_with(faults: Faults, tasks: int = 4, size: int = 4) -> list[bytes]:
    """Let some tasks work on two queues; returns the replies in the order they came."""
    came: list[bytes] = []
    async with served(Upper(size, size), faults=faults) as link, Driver(link) as driver:
        whole = driver.free_memory

        async def work(name: int) -> None:
            for i in range(4):
                text = b"t%d-%d" % (name, i)
                assert await driver.request(text, 9, name % 2) == text.upper()
                came.append(text)
            texts = [b"t%d=%d" % (name, i) for i in range(6)]
            wanted = [text.upper() for text in texts]
            assert await driver.request_many([(t, 9) for t in texts], name % 2) == wanted

        with trio.fail_after(HANG):
            async with trio.open_nursery() as nursery:
                for name in range(tasks):
                    nursery.start_soon(work, name)
        assert driver.free_memory == whole
        assert link.kick(0).name == "direct"
    return came


async def test_random_faults_change_nothing_but_time(
    autojump_clock: MockClock, rng: random.Random
) -> None:
    met: set[tuple[str, str, int]] = set()
    for _ in range(SEEDS):
        faults = Faults(seed=rng.getrandbits(32))
        came = await run_with(faults)
        for name in range(4):
            prefix = b"t%d-" % name
            mine = [text for text in came if text.startswith(prefix)]
            assert mine == [b"%b%d" % (prefix, i) for i in range(4)], faults
        met |= set(faults.injected)
    assert {(fault, way) for fault, way, _ in met} == {
        (fault, way) for fault in ("delay", "duplicate", "reorder") for way in WAYS
    }


async def test_a_device_that_stops_now_and_then_only_takes_longer(
    autojump_clock: MockClock, rng: random.Random
) -> None:
    for _ in range(SEEDS // 3):
        faults = Faults(seed=rng.getrandbits(32), chances={"stop": 0.3, "delay": 0.2})
        await run_with(faults)


def test_a_seed_repeats_the_faults(seed: int, seeded_scheduler: random.Random) -> None:
    """With the scheduler seeded, everything comes in the same order again."""
    runs: list[list[tuple[Fault, Way, int]]] = []
    for _ in range(5):
        seeded_scheduler.seed(seed)
        faults = Faults(seed=seed)
        trio.run(run_with, faults, clock=trio.testing.MockClock(autojump_threshold=0))
        runs.append(faults.injected)

    assert all(run == runs[0] for run in runs)


async def test_whatever_happens_a_reset_restores_service(
    autojump_clock: MockClock, rng: random.Random
) -> None:
    """Drops, breakdowns and resets under load, at random."""
    chances: dict[Fault, float] = {
        "drop": 0.1,
        "break": 0.1,
        "stop": 0.1,
        "delay": 0.1,
        "duplicate": 0.1,
        "reorder": 0.1,
    }
    for _ in range(SEEDS // 3):
        faults = Faults(seed=rng.getrandbits(32), chances=chances)
        async with served(Upper(4), faults=faults) as link, Driver(link) as driver:
            whole = driver.free_memory
            async with trio.open_nursery() as nursery:
                for name in range(3):
                    nursery.start_soon(work_in_spite_of, driver, b"t%d" % name)
            await driver.reset()
            assert driver.free_memory == whole, faults


async def work_in_spite_of(driver: Driver, name: bytes) -> None:
    done = 0
    while done < 5:
        try:
            with trio.fail_after(10):
                wanted = [name.upper()] * 6
                assert await driver.request_many([(name, 9)] * 6) == wanted
            done += 1
        except (trio.TooSlowError, DeviceNeedsReset):
            await driver.reset()
        except trio.BrokenResourceError:  # somebody else reset it
            await trio.sleep(0.1)


async def test_faults_from_a_thread_without_trio() -> None:
    """The delay is then real time, kept by a thread."""
    faults = Faults(seed=1, chances={"delay": 0.3, "reorder": 0.3, "duplicate": 0.4}, delay=0.001)

    def work() -> None:
        with SyncDriver(link) as driver:
            for _ in range(10):
                assert driver.request(b"text", 4) == b"TEXT"

    async with served(Upper(), doorbell=EventFd, faults=faults) as link:
        await trio.to_thread.run_sync(work)
    assert len(faults.injected) >= 10


@pytest.mark.parametrize(
    ("chances", "reason"),
    [
        ({"delay": 0.6, "drop": 0.6}, "no chances"),
        ({"delay": -0.1}, "no chances"),
        ({"dorp": 0.1}, "no such fault: dorp"),
    ],
)
def test_chances_that_make_no_sense_are_refused(chances: dict[Fault, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Faults(seed=1, chances=chances)


def test_chances_need_a_seed() -> None:
    with pytest.raises(ValueError, match="seed"):
        Faults(chances={"drop": 0.1})


async def test_no_chances_no_faults(autojump_clock: MockClock) -> None:
    faults = Faults(seed=1, chances={})
    await run_with(faults)

    assert not faults.injected


def test_the_seed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    Faults(seed=4711)

    (record,) = caplog.records
    assert "Faults(seed=4711" in record.getMessage()


def test_a_failure_shows_the_seed(tmp_path: Path) -> None:
    test = tmp_path / "test_that_fails.py"
    test.write_text(
        "from paravirt.transport import Faults\n"
        "def test_that_fails():\n"
        "    Faults(seed=4711)\n"
        "    assert False\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir=.", str(test)]

    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert run.returncode == 1
    assert "Faults(seed=4711" in run.stdout
