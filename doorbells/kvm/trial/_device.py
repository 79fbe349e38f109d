"""The device that is KVM, and what to say of one that cannot be used."""

from __future__ import annotations

import errno
from typing import Final

__all__ = ("API_VERSION", "why_closed")

GET_API_VERSION: Final = 0xAE00
API_VERSION: Final = 12
"""Of KVM's interface: the only one since Linux 2.6.22."""


def why_closed(device: str, error: OSError) -> str:
    """Say in one line why KVM's device cannot be opened or asked its version, and what to do."""
    match error.errno:
        case errno.ENOENT | errno.ENXIO | errno.ENODEV:
            return (
                f"no {device}: load kvm_intel or kvm_amd; inside a virtual machine, ask its host "
                "for nested virtualization"
            )
        case errno.EACCES | errno.EPERM:
            return f"{device} is not yours to open: sudo usermod -aG kvm $USER, then log in again"
        case errno.ENOTTY:
            return f"{device} is no KVM: look into dmesg"
        case _:
            return f"{device} cannot be used ({error.strerror}): look into dmesg"
