"""`paravirt doctor` as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from paravirt.doorbells import kvm, probe
from tests.cli.commands import command, without_core

if TYPE_CHECKING:
    import pytest


class Check(msgspec.Struct, forbid_unknown_fields=True):
    """One check of the document, as it is promised."""

    name: str
    available: bool
    reason: str


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """What `doctor --json` prints, as it is promised."""

    checks: list[Check]


def test_document_names_each_check_once_with_a_reason(capfd: pytest.CaptureFixture[str]) -> None:
    ended = command(capfd, "doctor", "--json")

    assert (ended.code, ended.err) == (0, "")
    checks = msgspec.json.decode(ended.out, type=Document).checks
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.reason and "\n" not in check.reason for check in checks)


def test_doorbells_are_as_they_say_themselves(capfd: pytest.CaptureFixture[str]) -> None:
    ended = command(capfd, "doctor", "--json")

    checks = msgspec.json.decode(ended.out, type=Document).checks
    found = {check.name: check.available for check in checks}
    rows = (*probe(), *kvm.probe())
    assert all(found[f"doorbell-{each.name}"] is each.available for each in rows)


def test_table_has_what_the_document_has(capfd: pytest.CaptureFixture[str]) -> None:
    document = msgspec.json.decode(command(capfd, "doctor", "--json").out, type=Document)
    lines = command(capfd, "doctor").out.splitlines()

    rows = [line.split()[:2] for line in lines if line.startswith(("yes ", "no "))]
    wanted = [["yes" if check.available else "no", check.name] for check in document.checks]
    assert rows == wanted
    assert all(len(line) <= 80 for line in lines)


def test_doctor_works_without_the_core_and_says_so() -> None:
    ended = without_core("doctor", "--json")

    assert ended.code == 0, ended.err
    checks = msgspec.json.decode(ended.out, type=Document).checks
    (core,) = [check for check in checks if check.name == "c-core"]
    assert not core.available
    assert "make install" in core.reason
