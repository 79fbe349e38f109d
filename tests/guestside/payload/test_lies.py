"""A device that lies, and one that is not there: the payload ends, and says what was wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.guestside.payload import PayloadResult, Program, Task
from tests.guestside.payload.payload_harness import ALL, run

if TYPE_CHECKING:
    from pathlib import Path

ECHO = Task(program=Program.ECHO, count=100, depth=8, patience=10_000_000)
SLEEPY = Task(program=Program.ECHO, count=100, depth=8, interrupt=True)
DISK = Task(program=Program.BLOCK, count=16, depth=8)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("magic", "no-device"),
        ("version", "version"),
        ("no-reset", "reset"),
        ("refuse", "features-refused"),
        ("no-queue", "no-queue"),
        ("in-use", "queue-in-use"),
        ("not-ready", "queue-refused"),
    ],
)
def test_device_without_agreement_is_refused(harness: Path, lie: str, reason: str) -> None:
    """3.1.1, 4.2.2, 4.2.3.2."""
    code, report, _ = run(harness, ECHO, lie=lie)

    assert (code, report.reason) == (PayloadResult.REFUSED, reason)


def test_legacy_device_is_refused(harness: Path) -> None:
    """6: a device without VERSION_1."""
    code, report, _ = run(harness, ECHO, features=ALL & ~(1 << 32))

    assert (code, report.reason) == (PayloadResult.REFUSED, "legacy-only")


@pytest.mark.parametrize(("lie", "reason"), [("type", "device-type"), ("capacity", "capacity")])
def test_disk_that_is_none_is_refused(harness: Path, lie: str, reason: str) -> None:
    code, report, _ = run(harness, DISK, lie=lie)

    assert (code, report.reason) == (PayloadResult.REFUSED, reason)


def test_read_only_disk_is_not_written(harness: Path) -> None:
    """5.2.6.1: VIRTIO_BLK_F_RO."""
    code, report, _ = run(harness, DISK, features=ALL | 1 << 5)

    assert (code, report.reason) == (PayloadResult.REFUSED, "read-only")


@pytest.mark.parametrize("lie", ["used-index", "used-id"])
@pytest.mark.parametrize("task", [ECHO, SLEEPY, DISK], ids=["polling", "sleeping", "disk"])
def test_lie_in_the_ring_ends_the_guest(harness: Path, lie: str, task: Task) -> None:
    """2.7.8."""
    code, report, _ = run(harness, task, lie=lie)

    assert (code, report.reason) == (PayloadResult.BROKEN, lie)


@pytest.mark.parametrize(
    ("task", "lie", "reason"),
    [
        (ECHO, "corrupt", "wrong-data"),
        (ECHO, "short", "wrong-length"),
        (DISK, "corrupt", "wrong-data"),
        (DISK, "status", "write-failed"),
    ],
)
def test_wrong_answer_is_told_from_a_right_one(
    harness: Path, task: Task, lie: str, reason: str
) -> None:
    code, report, _ = run(harness, task, lie=lie)

    assert (code, report.reason) == (PayloadResult.WRONG, reason)


def test_silent_device_is_given_up(harness: Path) -> None:
    code, report, _ = run(harness, ECHO, lie="silent")

    assert (code, report.reason) == (PayloadResult.SILENT, "silent")


@pytest.mark.parametrize("task", [ECHO, SLEEPY], ids=["polling", "sleeping"])
def test_device_that_needs_a_reset_is_given_up(harness: Path, task: Task) -> None:
    """2.1.1: DEVICE_NEEDS_RESET."""
    code, report, _ = run(harness, task, lie="needs-reset")

    assert (code, report.reason) == (PayloadResult.SILENT, "needs-reset")


def test_configuration_that_never_rests_does_not_hang_the_guest(harness: Path) -> None:
    """2.5.1: read again while the generation changes, but not for ever."""
    code, _, _ = run(harness, DISK, lie="restless")

    assert code == PayloadResult.OK


def test_pool_that_is_too_small_is_named(harness: Path) -> None:
    code, report, _ = run(harness, ECHO, pool=8192)

    assert (code, report.reason) == (PayloadResult.NO_MEMORY, "pool")


def test_page_of_another_version_is_refused(harness: Path) -> None:
    code, report, _ = run(harness, ECHO, lie="boot-page")

    assert (code, report.program, report.reason) == (
        PayloadResult.BAD_ARGUMENT,
        "none",
        "boot-page",
    )
