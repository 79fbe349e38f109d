"""KVM's interface, as far as doorbells need it: numbers and layouts of linux/kvm.h."""

from __future__ import annotations

import fcntl
import struct
from typing import Final

__all__ = (
    "assign_hyperv",
    "assign_ioeventfd",
    "assign_xen",
    "configure_xen",
    "enable_exit_hypercall",
)

CHECK_EXTENSION: Final = 0xAE03
CAP_IOEVENTFD: Final = 36
CAP_XEN_HVM: Final = 38
CAP_IOEVENTFD_ANY_LENGTH: Final = 122
CAP_HYPERV_EVENTFD: Final = 154
CAP_EXIT_HYPERCALL: Final = 201

XEN_INTERCEPT_HCALL: Final = 1 << 1
XEN_EVTCHN_SEND: Final = 1 << 5
MAP_GPA_RANGE: Final = 12  # KVM_HC_MAP_GPA_RANGE in linux/kvm_para.h

_KVM_IOEVENTFD: Final = 0x4040AE79
_IOEVENTFD: Final = struct.Struct("=QQIiI36x")  # datamatch, addr, len, fd, flags
_IOEVENTFD_DATAMATCH: Final = 1
_IOEVENTFD_PIO: Final = 2
_IOEVENTFD_DEASSIGN: Final = 4

_KVM_HYPERV_EVENTFD: Final = 0x4018AEBD
_HYPERV_EVENTFD: Final = struct.Struct("=IiI12x")  # conn_id, fd, flags
_HYPERV_DEASSIGN: Final = 1

_KVM_XEN_HVM_CONFIG: Final = 0x4038AE7A
_XEN_HVM_CONFIG: Final = struct.Struct(
    "=IIQQBB30x"
)  # flags, msr, blobs (address, size), 64/32 bits
_XEN_PAGE_MSR: Final = 0x40000200  # of the hypercall page, which nobody asks for; beside Hyper-V's

_KVM_XEN_HVM_SET_ATTR: Final = 0x4048AEC9
_XEN_LONG_MODE: Final = struct.Struct("=HxxxxxxB63x")  # type, long_mode
_XEN_EVTCHN: Final = struct.Struct("=HxxxxxxIIIIi44x")  # type, send_port, type, flags, port, fd
_XEN_ATTR_LONG_MODE: Final = 0
_XEN_ATTR_EVTCHN: Final = 3
_XEN_EVTCHN_DEASSIGN: Final = 1
_XEN_INTERDOMAIN: Final = 2  # EVTCHNSTAT_interdomain: the one type that ends in an eventfd

_KVM_ENABLE_CAP: Final = 0x4068AEA3
_ENABLE_CAP: Final = struct.Struct("=IIQQQQ64x")  # cap, flags, args


def assign_ioeventfd(
    vm: int,
    fd: int,
    address: int,
    length: int,
    *,
    pio: bool,
    match: int | None = None,
    deassign: bool = False,
) -> None:
    """Make a guest's write ring an eventfd, or stop that; length 0 is any. Raises OSError."""
    flags = pio * _IOEVENTFD_PIO + (match is not None) * _IOEVENTFD_DATAMATCH
    flags += deassign * _IOEVENTFD_DEASSIGN
    fcntl.ioctl(vm, _KVM_IOEVENTFD, _IOEVENTFD.pack(match or 0, address, length, fd, flags))


def assign_hyperv(vm: int, fd: int, connection: int, *, deassign: bool = False) -> None:
    """Make HvSignalEvent ring an eventfd, or stop that. Raises OSError."""
    flags = deassign * _HYPERV_DEASSIGN
    fcntl.ioctl(vm, _KVM_HYPERV_EVENTFD, _HYPERV_EVENTFD.pack(connection, fd, flags))


def configure_xen(vm: int, *, on: bool, long_mode: bool) -> None:
    """Let KVM take every hypercall for Xen's, or none. Raises OSError."""
    flags = on * (XEN_INTERCEPT_HCALL | XEN_EVTCHN_SEND)
    config = _XEN_HVM_CONFIG.pack(flags, on * _XEN_PAGE_MSR, 0, 0, 0, 0)
    fcntl.ioctl(vm, _KVM_XEN_HVM_CONFIG, config)
    if on:
        mode = _XEN_LONG_MODE.pack(_XEN_ATTR_LONG_MODE, long_mode)
        fcntl.ioctl(vm, _KVM_XEN_HVM_SET_ATTR, mode)


def assign_xen(vm: int, fd: int, port: int, *, deassign: bool = False) -> None:
    """Make EVTCHNOP_send ring an eventfd, or stop that. Raises OSError."""
    flags = deassign * _XEN_EVTCHN_DEASSIGN
    channel = _XEN_EVTCHN.pack(_XEN_ATTR_EVTCHN, port, _XEN_INTERDOMAIN, flags, 0, fd)
    fcntl.ioctl(vm, _KVM_XEN_HVM_SET_ATTR, channel)


def enable_exit_hypercall(vm: int) -> None:
    """Let KVM_HC_MAP_GPA_RANGE end in user space. Raises OSError."""
    asked = _ENABLE_CAP.pack(CAP_EXIT_HYPERCALL, 0, 1 << MAP_GPA_RANGE, 0, 0, 0)
    fcntl.ioctl(vm, _KVM_ENABLE_CAP, asked)
