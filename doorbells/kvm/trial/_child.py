"""The child process that tries doorbells: one line for each, begun before the guest runs."""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from ._kinds import Refused, Trial, trials

__all__ = ("main",)

_GET_API_VERSION = 0xAE00
_API_VERSION = 12  # the only one since Linux 2.6.22


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
        version = fcntl.ioctl(kvm, _GET_API_VERSION, 0)
    except OSError as error:
        raise Refused(_why_closed(device, error)) from error
    if version != _API_VERSION:
        raise Refused(f"{device} has version {version} of KVM's interface, not {_API_VERSION}")
    return kvm


def _why_closed(device: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENXIO | errno.ENODEV:
            return f"no {device}"
        case errno.EACCES | errno.EPERM:
            return f"no permission to open {device}"
        case errno.ENOTTY:
            return f"{device} is no KVM"
        case _:
            return f"{device} cannot be used: {error.strerror}"


def _outcome(trial: Trial, kvm: int) -> tuple[str, str]:
    try:
        return "yes", trial(kvm)
    except Refused as reason:
        return "no", str(reason)
    except OSError as error:
        return "no", f"KVM refuses a part of it: {error.strerror or error}"
