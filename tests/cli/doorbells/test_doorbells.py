"""`paravirt doorbells`: every doorbell of a guest, side by side."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from unittest.mock import Mock

import msgspec
import pytest

from paravirt.cli.doorbells._guest import run_task
from paravirt.cli.doorbells._measure import BARE, Counts
from paravirt.cli.doorbells._rows import KINDS, Report
from paravirt.doorbells import Capability
from paravirt.doorbells.kvm import MmioExit, PioIoeventfd, probe
from paravirt.guestside.payload import Program, Task
from tests.cli.commands import command, refused
from tests.tools import need_kvm

if TYPE_CHECKING:
    from pathlib import Path

    from paravirt.doorbells import Doorbell

pytestmark = pytest.mark.kvm

NAMES = [
    *("pio-ioeventfd", "pio-exit", "mmio-ioeventfd", "mmio-ioeventfd-wildcard"),
    *("pio-ioeventfd-wildcard", "pio-ioeventfd-datamatch", "mmio-ioeventfd-datamatch"),
    *("mmio-exit", "hypercall-hyperv", "hypercall-xen", "hypercall-exit", "vmport"),
    *("polling", "adaptive"),
]
ALWAYS = ("doorbell", "available", "reason")
BESIDE_BARE = ("bare_kick_ns_p50", "kick_times_bare")
BARE_NAMES = {kind.name for kind in BARE}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    need_kvm()
    counts = Counts(kicks=20, lone=10, busy=200, lone_load=10, load=200)
    monkeypatch.setattr("paravirt.cli.doorbells.Counts", lambda: counts)


def only(*names: str) -> list[str]:
    return [word for name in names for word in ("--only", name)]


def test_every_row_has_figures_or_its_reason(capfd: pytest.CaptureFixture[str]) -> None:
    found = {answer.name: answer for answer in probe()}

    ended = command(capfd, "doorbells", "--runs", "1", "--json")
    report = msgspec.json.decode(ended.out, type=Report)

    assert ended.code == 0
    assert [row.doorbell for row in report.rows] == NAMES
    for row in report.rows:
        figures = {n: v for n, v in msgspec.structs.asdict(row).items() if n not in ALWAYS}
        wanted = found.get(row.doorbell, Capability(row.doorbell, True, row.reason))
        assert (row.available, row.reason) == (wanted.available, wanted.reason)
        for name, value in figures.items():
            wanted_here = row.doorbell in BARE_NAMES if name in BESIDE_BARE else True
            assert (value is not None) == (row.available and wanted_here), (row, name)
    assert report.loopback_requests_per_s_depth64


def test_figures_tell_the_kinds_apart(capfd: pytest.CaptureFixture[str]) -> None:
    names = ("pio-ioeventfd", "pio-exit", "polling")

    ended = command(capfd, "doorbells", "--runs", "2", "--json", *only(*names))
    rows = {row.doorbell: row for row in msgspec.json.decode(ended.out, type=Report).rows}

    assert {name: row.user_exits for name, row in rows.items()} == dict(
        zip(names, (0.0, 1.0, 0.0), strict=True)
    )
    assert rows["polling"].kicks_per_request == 0
    assert not any(row.text_changed for row in rows.values())


def test_table_names_what_is_measured_and_what_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    (xen,) = [answer for answer in probe() if answer.name == "hypercall-xen"]

    ended = command(capfd, "doorbells", "--runs", "1", *only("mmio-exit", "hypercall-xen"))

    assert ended.code == 0
    assert "mmio-exit" in ended.out
    assert "█" in ended.out
    assert ("hypercall-xen: not here:" in ended.out) is not xen.available


def test_picture_is_a_png_of_what_runs_and_what_does_not(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The size of an image stands behind the signature and the first header (PNG 5.2, 11.2.1)."""
    several, one = tmp_path / "several.png", tmp_path / "one.png"

    for file, names in ((several, ("polling", "pio-exit", "vmport")), (one, ("polling",))):
        ended = command(capfd, "doorbells", "--runs", "1", "--png", str(file), *only(*names))
        assert ended.code == 0

    heads = [file.read_bytes()[:24] for file in (several, one)]
    assert all(head.startswith(b"\x89PNG\r\n\x1a\n") for head in heads)
    (width, tall), (same, low) = (struct.unpack(">II", head[16:]) for head in heads)
    assert width == same
    assert tall > low


def test_picture_of_no_doorbell_has_the_reasons(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing = tuple(Capability(kind.name, False, "no KVM here") for kind in KINDS)
    monkeypatch.setattr("paravirt.cli.doorbells._rows.probe", lambda: nothing)

    ended = command(
        capfd, "doorbells", "--png", str(tmp_path / "none.png"), *only("pio-exit", "vmport")
    )

    assert ended.code == 1
    assert (tmp_path / "none.png").read_bytes().startswith(b"\x89PNG")


def test_picture_without_its_library_says_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", Mock(return_value=None))

    told = refused(capfd, "doorbells", "--png", str(tmp_path / "picture.png"))

    assert "paravirt[plot]" in told


def test_picture_without_a_folder_is_refused_before_anything_runs(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "no folder" in refused(capfd, "doorbells", "--png", str(tmp_path / "no" / "picture.png"))


def test_bad_choice_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert "bell" in refused(capfd, "doorbells", "--only", "bell")
    assert "runs" in refused(capfd, "doorbells", "--runs", "0")


def test_host_without_any_is_told_why(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = tuple(Capability(kind.name, False, "no KVM here") for kind in KINDS)
    monkeypatch.setattr("paravirt.cli.doorbells._rows.probe", lambda: nothing)

    ended = command(capfd, "doorbells", "--runs", "1")

    assert ended.code == 1
    assert ended.out.count("no KVM here") == len(KINDS)


@pytest.mark.parametrize("kind", [PioIoeventfd, MmioExit], ids=lambda kind: kind.name)
async def test_each_request_has_a_stamp_that_precedes_it(kind: type[Doorbell]) -> None:
    """The clocks are compared to well under a microsecond, and a wake takes several."""
    task = Task(program=Program.ECHO, count=50)

    outcome = await run_task(kind, task, stamped=True)

    assert len(outcome.wakes_ns) == 50
    assert min(outcome.wakes_ns) > 0
    assert not outcome.text.changed
