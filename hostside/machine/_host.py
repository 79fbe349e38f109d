"""KVM as this host has it: the device, and whether it can do what a machine needs."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable, Mapping
from typing import Final

from paravirt.doorbells.kvm import API_VERSION, why_closed

from ._errors import KvmUnavailable
from ._ioctl import ioctl
from ._kvm import lib

__all__ = ()  # of use to this room only

DEVICE: Final = "/dev/kvm"
ARCHITECTURE: Final = "x86_64"

Ask = Callable[[str], int]
"""Returns what KVM answers about one capability, by name; 0 for one that it lacks."""

_NEEDED: Final = {
    "KVM_CAP_USER_MEMORY": "has no memory slots",
    "KVM_CAP_SET_TSS_ADDR": "cannot place its task state",
    "KVM_CAP_EXT_CPUID": "does not say what its CPUs can do",
    "KVM_CAP_IRQCHIP": "has no interrupt controller",
    "KVM_CAP_IRQ_ROUTING": "routes no interrupts",
    "KVM_CAP_IRQFD": "cannot interrupt a guest by an eventfd",
    "KVM_CAP_IOEVENTFD": "cannot turn a guest's store into an eventfd",
    "KVM_CAP_IMMEDIATE_EXIT": "cannot be stopped without a race",
}
"""What each machine uses, and what to say of a KVM without it."""
READONLY: Final = {"KVM_CAP_READONLY_MEM": "cannot make memory read-only"}
"""What a machine with read-only text uses besides."""


def open_kvm(device: str = DEVICE) -> int:
    """Return a descriptor of a KVM that can run a machine. Raises KvmUnavailable."""
    check_architecture(platform.machine())
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise KvmUnavailable(error.errno, why_closed(device, error)) from None
    try:
        check_kvm(device, lambda name: ioctl(fd, "KVM_CHECK_EXTENSION", getattr(lib, name)), fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_architecture(name: str) -> None:
    """Refuse a CPU that the ring-0 code is not written for."""
    if name != ARCHITECTURE:
        text = f"a machine runs on x86-64 only: there is no ring-0 code and no payload for {name}"
        raise KvmUnavailable(errno.ENOTSUP, text)


def check_kvm(device: str, ask: Ask, fd: int) -> None:
    """Refuse what is no KVM, or one that lacks something."""
    try:
        version = ioctl(fd, "KVM_GET_API_VERSION")
    except OSError as error:
        raise KvmUnavailable(error.errno, why_closed(device, error)) from None
    check_version(version)
    check_capabilities(ask)


def check_version(version: int) -> None:
    """Refuse a KVM of another interface."""
    if version != API_VERSION:
        text = f"KVM's interface has version {version}, not {API_VERSION}: update the kernel"
        raise KvmUnavailable(errno.ENOTSUP, text)


def check_capabilities(ask: Ask, needed: Mapping[str, str] = _NEEDED) -> None:
    """Refuse a KVM that lacks something."""
    for name, lack in needed.items():
        if ask(name) <= 0:
            raise KvmUnavailable(errno.ENOTSUP, f"this KVM {lack} ({name}): update the kernel")
