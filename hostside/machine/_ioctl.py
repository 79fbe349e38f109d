"""Ioctls of KVM, whose failures are named."""

from __future__ import annotations

import os
from typing import Any

from ._kvm import ffi, lib

__all__ = ()  # of use to this room only


def ioctl(fd: int, request: str, argument: Any = 0) -> int:
    """Do the ioctl of that name; the argument is a number or a structure's address.

    Raises OSError with the name.
    """
    number: int = getattr(lib, request)
    call = lib.pv_ioctl if isinstance(argument, ffi.CData) else lib.pv_ioctl_number
    rc: int = call(fd, number, argument)
    if rc < 0:
        raise OSError(-rc, f"{request}: {os.strerror(-rc)}")
    return rc
