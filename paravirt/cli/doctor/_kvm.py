"""What KVM offers, asked with ioctls of /dev/kvm; no virtual machine is made."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from paravirt.doorbells.kvm import API_VERSION, why_closed

from ._check import Check

DEVICE = Path("/dev/kvm")

_GET_API_VERSION = 0xAE00  # linux/kvm.h
_CHECK_EXTENSION = 0xAE03

_IRQFD = 32
_IOEVENTFD = 36
_XEN_HVM = 38
_HYPERV = 44
_READONLY_MEM = 81
_HYPERV_SYNIC = 123
_HYPERV_EVENTFD = 154
_EXIT_HYPERCALL = 201

_XEN_INTERCEPT_HCALL = 1 << 1
_XEN_EVTCHN_SEND = 1 << 5
_MAP_GPA_RANGE = 1 << 12

Ask = Callable[[int], int]
"""Returns what KVM answers about one capability; 0 for one that it lacks."""


def kvm_checks(device: Path = DEVICE) -> list[Check]:
    """Make the checks of KVM; without a device that answers, the rest is unknown."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return _unknown(why_closed(str(device), error))
    try:
        version = fcntl.ioctl(fd, _GET_API_VERSION, 0)
        opened = Check("kvm-device", True, f"{device} can be opened")
        found = capability_checks(lambda number: fcntl.ioctl(fd, _CHECK_EXTENSION, number))
        return [opened, check_version(version), *found]
    except OSError as error:
        return _unknown(why_closed(str(device), error))
    finally:
        os.close(fd)


def check_version(version: int) -> Check:
    """Check the version of the interface."""
    if version == API_VERSION:
        return Check("kvm-api", True, f"version {version}")
    return Check("kvm-api", False, f"version {version}, not {API_VERSION}: update the kernel")


def capability_checks(ask: Ask) -> list[Check]:
    """Check what doorbells on KVM and a guest's text would need."""
    return [Check(name, *look(ask)) for name, look in _CAPABILITIES.items()]


def _unknown(reason: str) -> list[Check]:
    names = ("kvm-api", *_CAPABILITIES)
    rest = [Check(name, False, "unknown without kvm-device") for name in names]
    return [Check("kvm-device", False, reason), *rest]


def _ioeventfd(ask: Ask) -> tuple[bool, str]:
    if ask(_IOEVENTFD):
        return True, "a guest's write can ring an eventfd"
    return False, "a guest's write cannot ring an eventfd: update the kernel"


def _irqfd(ask: Ask) -> tuple[bool, str]:
    if ask(_IRQFD):
        return True, "an eventfd can interrupt the guest"
    return False, "an eventfd cannot interrupt the guest: needs an in-kernel interrupt chip"


def _readonly_memory(ask: Ask) -> tuple[bool, str]:
    if ask(_READONLY_MEM):
        return True, "a guest's text can be made read-only"
    return False, "a guest's text cannot be made read-only: update the kernel"


def _exit_hypercall(ask: Ask) -> tuple[bool, str]:
    if ask(_EXIT_HYPERCALL) & _MAP_GPA_RANGE:
        return True, "KVM_HC_MAP_GPA_RANGE can end in user space"
    return False, "no hypercall ends in user space: needs Linux 5.14 on x86"


def _hyperv(ask: Ask) -> tuple[bool, str]:
    if all(ask(number) for number in (_HYPERV, _HYPERV_SYNIC, _HYPERV_EVENTFD)):
        return True, "Hyper-V's signal event can ring an eventfd"
    return False, "no such hypercall: needs x86 and CONFIG_KVM_HYPERV"


def _xen(ask: Ask) -> tuple[bool, str]:
    wanted = _XEN_INTERCEPT_HCALL | _XEN_EVTCHN_SEND
    if ask(_XEN_HVM) & wanted == wanted:
        return True, "Xen's event channel can ring an eventfd"
    return False, "no such hypercall: needs x86 and CONFIG_KVM_XEN"


_CAPABILITIES: dict[str, Callable[[Ask], tuple[bool, str]]] = {
    "kvm-ioeventfd": _ioeventfd,
    "kvm-irqfd": _irqfd,
    "kvm-readonly-memory": _readonly_memory,
    "kvm-exit-hypercall": _exit_hypercall,
    "kvm-hyperv-eventfd": _hyperv,
    "kvm-xen-evtchn": _xen,
}
