"""What is said of a device of KVM that cannot be used."""

from __future__ import annotations

import errno
import os

import pytest

from paravirt.doorbells.kvm import why_closed


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (errno.ENOENT, "no /dev/kvm: load kvm_intel or kvm_amd"),
        (errno.ENODEV, "no /dev/kvm: load kvm_intel or kvm_amd"),
        (errno.EACCES, "sudo usermod -aG kvm $USER"),
        (errno.ENOTTY, "/dev/kvm is no KVM"),
        (errno.EBUSY, "/dev/kvm cannot be used (Device or resource busy)"),
    ],
)
def test_each_cause_is_one_line_with_what_to_do(number: int, wanted: str) -> None:
    text = why_closed("/dev/kvm", OSError(number, os.strerror(number)))

    assert wanted in text
    assert "\n" not in text
