"""`paravirt attest`: which doorbell leaves a guest's text as it was loaded."""

from __future__ import annotations

from unittest.mock import Mock

import msgspec
import pytest

from paravirt.cli.attest._cases import Case, Trial, cases
from paravirt.cli.attest._rows import Attestation, Row
from paravirt.cli.attest._show import summary
from paravirt.cli.doorbells._rows import KINDS
from paravirt.doorbells import Capability
from paravirt.doorbells.kvm import HypercallExit, HyperV, PioExit, XenEvtchn, probe
from paravirt.guestside import payload
from paravirt.hostside.machine import ChangedPage, TextReport, measure
from tests.cli.commands import command, refused
from tests.tools import need_kvm

pytestmark = pytest.mark.kvm

CHANGED = TextReport(
    measured="aa",
    found="bb",
    pages=6,
    changed=(ChangedPage(0x201000, 0x201D41, "c1", "d9"),),
    doorbells=("hypercall-hyperv",),
)


@pytest.fixture(autouse=True)
def kvm() -> None:
    need_kvm()


def test_every_row_has_its_text_or_why_not(capfd: pytest.CaptureFixture[str]) -> None:
    found = {row.name: row for row in probe()}

    ended = command(capfd, "attest", "--json")
    document = msgspec.json.decode(ended.out, type=Attestation)
    own = [row for row in document.rows if row.case == Case.OWN]

    assert ended.code == 0
    assert document.measured == measure(payload.path())
    assert [row.doorbell for row in own] == [kind.name for kind in KINDS]
    assert [row.case for row in document.rows[len(own) :]] == list(Case)[1:]
    for row in document.rows:
        known = found.get(row.doorbell, Capability(row.doorbell, True, ""))
        assert row.available is known.available
        if row.text is None:
            assert row.outcome == known.reason
        elif row.case == Case.OWN:
            assert row.text.found == document.measured
            assert row.text.doorbells == (row.doorbell,)


def test_table_says_what_stayed(capfd: pytest.CaptureFixture[str]) -> None:
    ended = command(capfd, "attest", "--only", "pio-exit", "--only", "vmport")

    assert ended.code == 0
    assert ended.out.count("same") == 2
    assert "Text as it was loaded: pio-exit; vmport." in ended.out
    assert measure(payload.path()) in ended.out


def test_change_is_named_with_its_bytes() -> None:
    changed = Row("hypercall-hyperv", Case.OTHER, True, "", True, CHANGED)

    same, new = summary([changed])

    assert same == "Text as it was loaded: none."
    assert new.startswith("Text rewritten: hypercall-hyperv, other vendor's instruction: ")
    assert new.endswith(": page 0x201000, at 0x201d41: c1 became d9.")


def test_change_by_a_doorbell_as_it_should_be_fails(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for case, code in ((Case.OWN, 1), (Case.OTHER, 0)):
        row = Row("hypercall-hyperv", case, True, "", True, CHANGED)
        found = Mock(return_value=Attestation("aa", [row]))
        monkeypatch.setattr("paravirt.cli.attest.attest_all", found)

        ended = command(capfd, "attest")

        assert ended.code == code
        assert "new" in ended.out


@pytest.mark.parametrize(
    ("here", "tried"),
    [
        ({"hypercall-xen", "hypercall-exit"}, XenEvtchn),
        ({"hypercall-hyperv"}, HyperV),
        (set[str](), HypercallExit),
    ],
)
def test_other_vendors_instruction_is_tried_with_a_hypercall_that_there_is(
    monkeypatch: pytest.MonkeyPatch, here: set[str], tried: type[HyperV]
) -> None:
    rows = tuple(Capability(kind.name, kind.name in here, "") for kind in KINDS)
    monkeypatch.setattr("paravirt.cli.attest._cases.probe", lambda: rows)

    assert cases(KINDS)[len(KINDS) :] == [Trial(tried, case) for case in list(Case)[1:]]
    assert cases([PioExit]) == [Trial(PioExit, Case.OWN)]


def test_host_without_any_is_told_why(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Mock(return_value=(False, "no KVM here"))
    monkeypatch.setattr("paravirt.cli.attest._rows.availability", nothing)

    ended = command(capfd, "attest", "--only", "pio-exit")

    assert ended.code == 1
    assert "pio-exit: not here: no KVM here" in ended.out


def test_bad_choice_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert "bell" in refused(capfd, "attest", "--only", "bell")
