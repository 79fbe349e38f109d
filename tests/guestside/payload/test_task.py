"""The host's side of the payload: tasks, reports, and the file itself."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from paravirt.guestside import payload
from paravirt.guestside.payload import Operation, PayloadNotBuilt, Program, Task

if TYPE_CHECKING:
    from pathlib import Path


def test_task_becomes_arguments_in_the_payloads_order() -> None:
    task = Task(
        program=Program.BLOCK,
        count=3,
        depth=2,
        interrupt=True,
        size=512,
        queues=4,
        seed=6,
        patience=7,
        operations=Operation.WRITE,
        features=9,
    )

    assert task.arguments() == (2, 2, 3, 1, 512, 4, 6, 7, 1, 9)


@pytest.mark.parametrize(
    "wrong",
    [
        Task(program=Program.ECHO, count=1, depth=0),
        Task(program=Program.ECHO, count=1, queues=9),
        Task(program=Program.ECHO, count=1, size=65537),
        Task(program=Program.ECHO, count=1, seed=-1),
    ],
    ids=["depth", "queues", "size", "seed"],
)
def test_task_that_the_payload_would_refuse_is_refused(wrong: Task) -> None:
    with pytest.raises(ValueError):
        wrong.arguments()


def test_report_is_the_last_line_that_is_one() -> None:
    said = "asleep\nwoken=3 program=idle status=ok kicks=0 \nnoise\n"

    report = payload.parse(said)

    assert (report.program, report.ok, report.figures) == ("idle", True, {"woken": 3, "kicks": 0})


def test_console_without_a_report_is_an_error() -> None:
    with pytest.raises(ValueError, match="not reported"):
        payload.parse("asleep\n")


def test_payload_is_an_elf_for_x86_64_that_asks_for_no_other() -> None:
    """e_type 2: linked to its addresses; e_machine 62; no dynamic section and no interpreter."""
    elf = payload.path().read_bytes()
    kind, machine = struct.unpack_from("<HH", elf, 16)
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    segments = [struct.unpack_from("<II", elf, table + size * index) for index in range(count)]

    assert elf[:5] == b"\x7fELF\x02"
    assert (kind, machine) == (2, 62)
    assert segments == [(1, 5), (1, 4), (1, 6)]  # code that nobody writes, constants, data


def test_missing_payload_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paravirt.guestside.payload._elf.__file__", str(tmp_path / "_elf.py"))

    with pytest.raises(PayloadNotBuilt, match="was not built"):
        payload.path()
