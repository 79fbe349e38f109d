"""What the doctor says about KVM."""

from __future__ import annotations

from pathlib import Path

import pytest

from paravirt.cli.doctor._kvm import capability_checks, check_version, kvm_checks
from tests.tools import need_kvm

IRQFD, IOEVENTFD, XEN, HYPERV, SYNIC, HYPERV_EVENTFD, HYPERCALL = 32, 36, 38, 44, 123, 154, 201
READONLY = 81
NAMES = [
    *("kvm-ioeventfd", "kvm-irqfd", "kvm-readonly-memory"),
    *("kvm-exit-hypercall", "kvm-hyperv-eventfd", "kvm-xen-evtchn"),
]


def available(answers: dict[int, int]) -> list[str]:
    """Return the names of what is available when KVM answers like this, 0 where nothing is said."""
    checks = capability_checks(lambda number: answers.get(number, 0))
    return [check.name for check in checks if check.available]


def test_kernel_that_has_all_is_told_so() -> None:
    answers = dict.fromkeys((IRQFD, IOEVENTFD, READONLY, HYPERV, SYNIC, HYPERV_EVENTFD), 1)

    assert available({**answers, HYPERCALL: 0x1000, XEN: 0x22}) == NAMES


def test_kernel_that_has_nothing_is_told_what_it_needs() -> None:
    checks = capability_checks(lambda _: 0)

    assert [check.name for check in checks] == NAMES
    assert not any(check.available for check in checks)
    assert all(":" in check.reason for check in checks)


@pytest.mark.parametrize("number", [HYPERV, SYNIC, HYPERV_EVENTFD])
def test_hyper_v_needs_all_of_its_parts(number: int) -> None:
    parts = {HYPERV: 1, SYNIC: 1, HYPERV_EVENTFD: 1}

    assert available(parts) == ["kvm-hyperv-eventfd"]
    assert available({**parts, number: 0}) == []


@pytest.mark.parametrize("flags", [0x02, 0x20, 0x1D])
def test_xen_needs_both_flags(flags: int) -> None:
    assert available({XEN: flags}) == []


def test_other_hypercalls_do_not_count() -> None:
    assert available({HYPERCALL: 0x0FFF}) == []


def test_no_device_leaves_the_rest_unknown(tmp_path: Path) -> None:
    device, *others = kvm_checks(tmp_path / "kvm")

    assert not device.available
    assert "nested virtualization" in device.reason
    assert {check.reason for check in others} == {"unknown without kvm-device"}


def test_something_else_in_its_place_is_no_kvm() -> None:
    device, *others = kvm_checks(Path("/dev/null"))

    assert not device.available
    assert "is no KVM" in device.reason
    assert [check.name for check in others] == ["kvm-api", *NAMES]


def test_other_version_is_refused() -> None:
    assert check_version(12).available
    assert not check_version(11).available


@pytest.mark.kvm
def test_real_device_answers() -> None:
    need_kvm()
    checks = {check.name: check for check in kvm_checks()}

    assert checks["kvm-device"].available
    assert checks["kvm-api"].available
