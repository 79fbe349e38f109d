"""The child process that tries doorbells: one line for each, begun before the guest runs."""

from __future__ import annotations

import fcntl
import os
import sys

from ._device import API_VERSION, GET_API_VERSION, why_closed
from ._kinds import Refused, Trial, trials

__all__ = ("main",)


def main() -> None:
    """Try the kinds named on the command line, behind the device and the architecture.

    Prints name, tab, `yes` or `no`, tab, reason. A line that ends at its first tab is a guest that
    was killed.
    """
    device, architecture, *names = sys.argv[1:]
    known = trials(architecture)
    try:
        kvm = _open(device)
    except Refused as reason:
        for name in names:
            print(name, "no", reason, sep="\t")
        return
    for name in names:
        print(name, end="\t", flush=True)
        print(*_outcome(known[name], kvm), sep="\t", flush=True)


def _open(device: str) -> int:
    try:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        version = fcntl.ioctl(kvm, GET_API_VERSION, 0)
    except OSError as error:
        raise Refused(why_closed(device, error)) from error
    if version != API_VERSION:
        raise Refused(f"{device} has version {version} of KVM's interface, not {API_VERSION}")
    return kvm


def _outcome(trial: Trial, kvm: int) -> tuple[str, str]:
    try:
        return "yes", trial(kvm)
    except Refused as reason:
        return "no", str(reason)
    except OSError as error:
        return "no", f"KVM refuses a part of it: {error.strerror or error}"
