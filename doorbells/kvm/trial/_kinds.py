"""How each kind of doorbell is tried: registered, rung once by a guest, and listened to."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Generator
from functools import partial
from typing import Final

from ._abi import (
    CAP_EXIT_HYPERCALL,
    CAP_HYPERV_EVENTFD,
    CAP_IOEVENTFD,
    CAP_IOEVENTFD_ANY_LENGTH,
    CAP_XEN_HVM,
    CHECK_EXTENSION,
    MAP_GPA_RANGE,
    XEN_EVTCHN_SEND,
    XEN_INTERCEPT_HCALL,
    assign_hyperv,
    assign_ioeventfd,
    assign_xen,
    configure_xen,
    enable_exit_hypercall,
)
from ._page import Exit, PageMachine

__all__ = ()

# A hang burns CPU time, and a busy host does not: so this is not the time of day.
_LIMIT_SECONDS: Final = 0.2
_PORT: Final = 0xC000
_ADDRESS: Final = 0xD0100000
_NUMBER: Final = 7  # of a connection and of an event channel
_OUT: Final = b"\x66\xef"  # out %ax, (%dx)
_IN: Final = b"\xed"  # in (%dx), %eax
_STORE: Final = b"\x89\x07"  # mov %eax, (%edi)
# See guest/doorbell_x86.h for these.
_HV_SIGNAL_EVENT: Final = 0x1005D
_HV_GUEST_OS_ID: Final = 0x40000000
_XEN_EVENT_CHANNEL_OP: Final = 32
_XEN_EVTCHNOP_SEND: Final = 4
_VMPORT: Final = 0x5658
_VMPORT_MAGIC: Final = 0x564D5868


class Refused(Exception):
    """The host does not have it; the message says why."""


Trial = Callable[[int], str]
"""Takes the descriptor of /dev/kvm; returns how the doorbell behaves here or raises Refused."""


def _demand(kvm: int, capability: int, bits: int, otherwise: str) -> None:
    if fcntl.ioctl(kvm, CHECK_EXTENSION, capability) & bits != bits:
        raise Refused(otherwise)


def _expect(as_it_should: bool, came: Exit, what: str) -> None:
    if not as_it_should:
        raise Refused(f"{what} ended in user space, as {came.reason}")


@contextlib.contextmanager
def _listening() -> Generator[int, None, None]:
    """Give an eventfd that must have been rung exactly once in the end."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        yield fd
        try:
            count = os.eventfd_read(fd)
        except BlockingIOError:
            count = 0
        if count != 1:
            raise Refused(f"one kick by the guest was heard {count} times")
    finally:
        os.close(fd)


@contextlib.contextmanager
def _machine(kvm: int, *, hyperv: bool = False) -> Generator[PageMachine, None, None]:
    machine = PageMachine(kvm, hyperv=hyperv, limit=_LIMIT_SECONDS)
    try:
        yield machine
    finally:
        machine.close()


def _ioeventfd(kvm: int, *, pio: bool, wildcard: bool = False, match: bool = False) -> str:
    _demand(kvm, CAP_IOEVENTFD, 1, "this KVM has no ioeventfd")
    if wildcard:
        _demand(kvm, CAP_IOEVENTFD_ANY_LENGTH, 1, "length 0 needs Linux 4.4")
    length = 2 if pio else 4
    registers = {"rax": _NUMBER, "rdx": _PORT, "rdi": _ADDRESS}
    with _machine(kvm) as machine, _listening() as fd:
        assign_ioeventfd(
            machine.fd,
            fd,
            _PORT if pio else _ADDRESS,
            0 if wildcard else length,
            pio=pio,
            match=_NUMBER if match else None,
        )
        came = machine.execute(_OUT if pio else _STORE, registers)
        _expect(came.done, came, "a guest's write")
    return "KVM writes the eventfd" + (", by the value written" if match else "")


def _pio_exit(kvm: int) -> str:
    with _machine(kvm) as machine:
        came = machine.execute(_OUT, {"rdx": _PORT})
        _expect(came.port == _PORT, came, "OUT")
    return "through user space"


def _mmio_exit(kvm: int) -> str:
    with _machine(kvm) as machine:
        came = machine.execute(_STORE, {"rdi": _ADDRESS})
        _expect(came.address == _ADDRESS, came, "a store")
    return "through user space"


def _vmport(kvm: int) -> str:
    with _machine(kvm) as machine:
        came = machine.execute(_IN, {"rax": _VMPORT_MAGIC, "rdx": _VMPORT})
        _expect(came.port == _VMPORT, came, "IN")
    return "through user space, with registers"


def _hyperv(kvm: int) -> str:
    otherwise = "this KVM has no Hyper-V signal event: needs Linux 4.17 with CONFIG_KVM_HYPERV"
    _demand(kvm, CAP_HYPERV_EVENTFD, 1, otherwise)
    with _machine(kvm, hyperv=True) as machine, _listening() as fd:
        machine.write_msr(_HV_GUEST_OS_ID, 1)
        assign_hyperv(machine.fd, fd, _NUMBER)
        registers = {"rax": _HV_SIGNAL_EVENT, "rcx": _NUMBER}
        came = machine.execute(machine.hypercall, registers)
        _expect(came.done, came, "HvSignalEvent")
    return "KVM writes the eventfd, in ring 0"


def _xen(kvm: int) -> str:
    otherwise = "this KVM has no Xen event channel: needs Linux 5.17 with CONFIG_KVM_XEN"
    _demand(kvm, CAP_XEN_HVM, XEN_INTERCEPT_HCALL | XEN_EVTCHN_SEND, otherwise)
    with _machine(kvm) as machine, _listening() as fd:
        configure_xen(machine.fd, on=True, long_mode=False)
        assign_xen(machine.fd, fd, _NUMBER)
        registers = {"rax": _XEN_EVENT_CHANNEL_OP, "rbx": _XEN_EVTCHNOP_SEND, "rcx": machine.DATA}
        came = machine.execute(machine.hypercall, registers, _NUMBER)
        _expect(came.done, came, "EVTCHNOP_send")
    return "KVM writes the eventfd, in ring 0"


def _hypercall_exit(kvm: int) -> str:
    otherwise = "in this KVM no hypercall ends in user space: needs Linux 5.14"
    _demand(kvm, CAP_EXIT_HYPERCALL, 1 << MAP_GPA_RANGE, otherwise)
    with _machine(kvm) as machine:
        enable_exit_hypercall(machine.fd)
        registers = {"rax": MAP_GPA_RANGE, "rbx": _ADDRESS, "rcx": 1}
        came = machine.execute(machine.hypercall, registers)
        _expect(came.value == MAP_GPA_RANGE, came, "KVM_HC_MAP_GPA_RANGE")
    return "through user space, in ring 0"


def _mmio_by_capability(kvm: int, *, wildcard: bool = False) -> str:
    """Where there is no guest code of ours to try it with."""
    _demand(kvm, CAP_IOEVENTFD, 1, "this KVM has no ioeventfd")
    if wildcard:
        _demand(kvm, CAP_IOEVENTFD_ANY_LENGTH, 1, "length 0 needs Linux 4.4")
    return "by what the kernel says, not tried"


def _no_ports(architecture: str, _kvm: int) -> str:
    raise Refused(f"{architecture} has no port I/O: use mmio-ioeventfd")


def _no_hypercall(architecture: str, _kvm: int) -> str:
    raise Refused(f"a hypercall of x86, and this is {architecture}: use mmio-ioeventfd")


def _says_so(_kvm: int) -> str:
    return "through user space; not tried"


def trials(architecture: str) -> dict[str, Trial]:
    """Return the trial of each kind, by its name."""
    if architecture == "x86_64":
        return _ON_X86
    elsewhere: dict[str, Trial] = {}
    for name in _ON_X86:
        refuse = _no_hypercall if name.startswith("hypercall") else _no_ports
        elsewhere[name] = partial(refuse, architecture)
    for name in ("mmio-ioeventfd", "mmio-ioeventfd-wildcard", "mmio-ioeventfd-datamatch"):
        elsewhere[name] = partial(_mmio_by_capability, wildcard=name.endswith("wildcard"))
    return elsewhere | {"mmio-exit": _says_so}


_ON_X86: Final[dict[str, Trial]] = {
    "pio-ioeventfd": partial(_ioeventfd, pio=True),
    "pio-ioeventfd-wildcard": partial(_ioeventfd, pio=True, wildcard=True),
    "pio-ioeventfd-datamatch": partial(_ioeventfd, pio=True, match=True),
    "pio-exit": _pio_exit,
    "mmio-ioeventfd": partial(_ioeventfd, pio=False),
    "mmio-ioeventfd-wildcard": partial(_ioeventfd, pio=False, wildcard=True),
    "mmio-ioeventfd-datamatch": partial(_ioeventfd, pio=False, match=True),
    "mmio-exit": _mmio_exit,
    "vmport": _vmport,
    "hypercall-hyperv": _hyperv,
    "hypercall-xen": _xen,
    "hypercall-exit": _hypercall_exit,
}
