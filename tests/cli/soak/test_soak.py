"""`paravirt soak`: doorbells changed under load, and what it says when a request is missed."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from paravirt.cli._errors import Interrupted
from paravirt.cli.soak._all import soak_one
from paravirt.cli.soak._row import LOADS, Plan, Report
from paravirt.cli.soak._swaps import Counting, Swaps, make_row
from paravirt.doorbells import Direct, Doorbell, EventFd
from paravirt.guestside import Driver
from paravirt.hostside import serve
from paravirt.hostside.machine import KvmUnavailable
from paravirt.transport import loopback
from tests.cli.commands import command, refused
from tests.tools import missing

if TYPE_CHECKING:
    from paravirt.cli.soak._row import Load
    from paravirt.doorbells import DoorbellMaker

SHORT = ("--seconds", "0.3", "--json")


class Deaf(EventFd):
    """Loses every notification."""

    name = "deaf"

    def ring(self) -> None:
        pass


class DeafToo(Deaf):
    name = "deaf-too"


def rows(out: str) -> Report:
    return msgspec.json.decode(out, type=Report)


@pytest.mark.kvm
def test_every_load_keeps_every_request(capfd: pytest.CaptureFixture[str]) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        missing("no /dev/kvm that can be opened here")

    ended = command(capfd, "soak", *SHORT)
    report = rows(ended.out)

    assert ended.code == 0
    assert [row.load for row in report.rows] == [load.name for load in LOADS]
    for row in report.rows:
        assert (row.outcome, row.lost, row.repeated) == ("ok", 0, 0), row
        assert row.swaps
        assert row.requests


def test_table_ends_with_a_line_that_sums_up(capfd: pytest.CaptureFixture[str]) -> None:
    ended = command(capfd, "soak", "--seconds", "0.1", "--every", "1", "--only", "loopback")

    assert ended.code == 0
    assert ended.out.splitlines()[-1].endswith("requests: lost=0 repeated=0")


@pytest.mark.parametrize("load", ["loopback", "loopback-depth-64"])
def test_doorbells_that_do_not_ring_are_noticed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, load: str
) -> None:
    monkeypatch.setattr("paravirt.cli.soak._loopback.KINDS", (Deaf, DeafToo))
    monkeypatch.setattr("paravirt.cli.soak._loopback.PATIENCE", 0.1)

    ended = command(capfd, "soak", *SHORT, "--only", load)
    (row,) = rows(ended.out).rows

    assert ended.code == 1
    assert row.outcome.startswith("no reply")
    assert row.lost is None


@pytest.mark.parametrize(
    ("numbers", "lost", "repeated"),
    [((0, 1, 2), 0, 0), ((0, 2, 3), 0, 0), ((0, 1, 1), 1, 1), ((1, 0, 2), 1, 1)],
    ids=["whole", "gap", "again", "out of turn"],
)
async def test_requests_are_counted_by_their_numbers(
    numbers: tuple[int, ...], lost: int, repeated: int
) -> None:
    device = Counting()
    link = loopback(device, doorbell=Direct, call_doorbell=Direct)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, device, link)
        async with Driver(link) as driver:
            for number in numbers:
                await driver.request(number.to_bytes(8, "little"), 8)
        link.close()
    plan = Plan(seconds=0, every=0, seed=1)

    row = make_row(LOADS[0], plan, Swaps((), plan), device, failure="", sent=len(numbers))

    assert (row.lost, row.repeated) == (lost, repeated)
    assert (row.outcome == "ok") == (numbers == (0, 1, 2))


class Recorder:
    """A link that only notes what its doorbell becomes; each change takes a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.kinds: list[DoorbellMaker] = []

    async def swap(self, maker: DoorbellMaker, queue: int = 0) -> None:
        assert queue == 0
        self.kinds.append(maker)
        await trio.sleep(self._seconds)


@pytest.mark.parametrize(("takes", "late"), [(0.004, 0), (0.02, 5)])
async def test_doorbell_changes_at_fixed_times_to_another_kind(
    autojump_clock: object, takes: float, late: int
) -> None:
    kinds: list[type[Doorbell]] = [EventFd, Deaf, DeafToo]
    link = Recorder(takes)
    swaps = Swaps(kinds, Plan(seconds=0.095, every=0.01, seed=3))

    await swaps.run(link, EventFd, lambda _: None)

    assert swaps.late == late
    assert swaps.count == len(link.kinds) == (late or 10)
    assert all(one is not other for one, other in pairwise([EventFd, *link.kinds]))


def test_host_without_kvm_is_told_why(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(**_: object) -> object:
        raise KvmUnavailable(None, "no KVM here")

    monkeypatch.setattr("paravirt.cli.soak._guest.Machine", absent)

    ended = command(capfd, "soak", "--seconds", "0.1", "--only", "kvm-polling")

    assert ended.code == 1
    assert ended.out == "kvm-polling: not here: no KVM here\n"


def test_bad_choice_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert "bell" in refused(capfd, "soak", "--only", "bell")
    assert "seconds" in refused(capfd, "soak", "--seconds", "0")


@pytest.mark.kvm
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_ctrl_c_between_two_changes_ends_a_load(load: Load) -> None:
    if load.kvm and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        missing("no /dev/kvm that can be opened here")

    def interrupt(seconds: float) -> None:
        if seconds > 0:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        soak_one(load, Plan(seconds=100, every=0.001, seed=1), interrupt)
