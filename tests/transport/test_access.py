"""Which words of shared memory each step touches, in which order, as a C harness notes them."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "transport" / "core"
HARNESS = Path(__file__).with_name("access_harness.c")
SOURCES = [CORE / f"{name}.c" for name in ("walk", "split_device", "split_driver", "memory")]
COMPILERS = [name for name in ("cc", "clang", "clang-14") if shutil.which(name)]
SIZE = 8
USED_EVENT, AVAIL_EVENT = 4 + 2 * SIZE, 4 + 8 * SIZE

Access = tuple[str, str, int]  # R or W, area, offset
Accesses = dict[str, list[Access]]  # by scenario

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="notes accesses by the trap flag of x86"
)


@pytest.fixture(scope="module", params=COMPILERS)
def accesses(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Accesses:
    program = tmp_path_factory.mktemp("access") / "harness"
    build = [request.param, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{CORE}"]
    subprocess.run([*build, "-o", program, HARNESS, *SOURCES], check=True)
    ended = subprocess.run([program], capture_output=True, text=True, timeout=60, check=True)
    found: Accesses = defaultdict(list)
    for line in ended.stdout.splitlines():
        scenario, kind, area, offset = line.split()
        found[scenario].append((kind, area, int(offset)))
    return found


def areas(accesses: Accesses, kind: str, *scenarios: str) -> set[str]:
    return {area for name in scenarios for found, area, _ in accesses[name] if found == kind}


def words(area: str, *offsets: int) -> list[Access]:
    return [("R", area, offset) for offset in offsets]


def test_no_word_of_a_malformed_or_a_good_chain_is_read_twice(accesses: Accesses) -> None:
    pops = [name for name in accesses if name.startswith("pop-")]

    assert len(pops) == 6
    for name in pops:
        reads = [access for access in accesses[name] if access[0] == "R"]
        assert len(set(reads)) == len(reads)


def test_a_look_at_an_empty_ring_is_one_load(accesses: Accesses) -> None:
    assert accesses["pop-nothing"] == words("avail", 2)


def test_a_batch_reads_the_index_once_and_each_descriptor_in_two_words(accesses: Accesses) -> None:
    assert accesses["pop-three"] == [
        *words("avail", 2, 4, 6, 8),
        *words("desc", 0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88),
    ]


def test_a_table_is_read_like_the_ring(accesses: Accesses) -> None:
    assert accesses["pop-table"] == [
        *words("avail", 2, 4),
        *words("desc", 0, 8),
        *words("table", 0, 8, 16, 24),
    ]


def test_a_table_at_an_odd_address_is_read_byte_by_byte(accesses: Accesses) -> None:
    """2.7.5.3 asks for no alignment."""
    assert accesses["pop-odd-table"][4:] == words("table", *range(1, 33))


def test_a_walk_ends_at_the_first_lie(accesses: Accesses) -> None:
    assert accesses["pop-bad"][4:] == [
        *words("table", 8, 16),
        ("W", "used", 4),
        ("W", "used", 8),
    ]


@pytest.mark.parametrize(("name", "asked"), [("flags", 0), ("events", AVAIL_EVENT)])
def test_publication_comes_before_the_look_whether_to_kick(
    accesses: Accesses, name: str, asked: int
) -> None:
    """2.7.13.4.1; and without EVENT_IDX the event field is not looked at, or the other way."""
    assert accesses[f"{name}-publish"] == [("W", "avail", 2), ("R", "used", asked)]


@pytest.mark.parametrize(("name", "asked"), [("flags", 0), ("events", USED_EVENT)])
def test_publication_comes_before_the_look_whether_to_call(
    accesses: Accesses, name: str, asked: int
) -> None:
    """2.7.7.2."""
    assert accesses[f"{name}-publish-used"] == [("W", "used", 2), ("R", "avail", asked)]


@pytest.mark.parametrize(
    ("name", "device_asks", "driver_asks"), [("flags", 0, 0), ("events", AVAIL_EVENT, USED_EVENT)]
)
def test_whoever_asks_to_be_woken_looks_again(
    accesses: Accesses, name: str, device_asks: int, driver_asks: int
) -> None:
    assert accesses[f"{name}-arm"] == [("W", "used", device_asks), ("R", "avail", 2)]
    assert accesses[f"{name}-arm-driver"] == [("W", "avail", driver_asks), ("R", "used", 2)]


@pytest.mark.parametrize("name", ["flags", "events"])
def test_each_end_writes_only_what_is_its_own(accesses: Accesses, name: str) -> None:
    """2.7.5.1, 2.7.6, 2.7.8."""
    device = [f"{name}-{step}" for step in ("complete", "publish-used", "arm")]
    driver = [f"{name}-{step}" for step in ("add", "publish", "reap", "arm-driver")]

    assert areas(accesses, "W", *device, "pop-one", "pop-bad") == {"used"}
    assert areas(accesses, "W", *driver) == {"desc", "avail"}


@pytest.mark.parametrize("name", ["flags", "events"])
def test_the_driver_never_reads_back_what_it_wrote(accesses: Accesses, name: str) -> None:
    """The device could have changed it."""
    driver = [f"{name}-{step}" for step in ("add", "publish", "reap", "arm-driver")]

    assert areas(accesses, "R", *driver) == {"used"}


def test_a_reap_reads_the_index_and_each_entry_once(accesses: Accesses) -> None:
    assert accesses["events-reap"] == words("used", 2, 4, 8)
