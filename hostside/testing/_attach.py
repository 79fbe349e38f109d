"""How a device of ours is attached to QEMU, by its type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ._errors import GuestError

if TYPE_CHECKING:
    from .._device import Device

__all__ = ()  # of use to this room only


class Type(msgspec.Struct, frozen=True):
    """A device type (virtio 1.4, 5) that QEMU has a vhost-user frontend for."""

    name: str
    """QEMU's name of it on a virtio bus; with -pci behind it the one on a PCI bus."""
    modules: tuple[str, ...]
    """Linux's driver, and what else makes the device of use."""
    options: str = ""
    """What QEMU has to be told of it; {queues} is their number."""
    pci_options: str = ""
    """What it has to be told besides, on a PCI bus."""
    mmio_options: str = ""
    """What it has to be told besides, on virtio-mmio."""
    backend: str | None = None
    """The type of QEMU's -netdev in between."""


TYPES = {
    1: Type(
        "virtio-net",
        ("virtio_net",),
        # Without interrupts of its own: QEMU 7.2 under TCG ends with a segmentation fault in
        # msix_set_vector_notifiers when the guest's driver starts. Without a ROM to boot from.
        pci_options="vectors=0,romfile=",
        backend="vhost-user",
    ),
    2: Type(
        "vhost-user-blk",
        # Where the file system is a module, it wants a checksum that it does not depend on.
        ("virtio_blk", "crc32c_generic", "ext4"),
        "num-queues={queues}",
    ),
    4: Type("vhost-user-rng", ("virtio_rng",)),
    8: Type("vhost-user-scsi", ("virtio_scsi", "sd_mod"), "num_queues={queues}"),
    19: Type("vhost-user-vsock", ("vmw_vsock_virtio_transport",)),
    26: Type("vhost-user-fs", ("virtiofs",), "tag=paravirt"),
    34: Type("vhost-user-i2c", ("i2c_virtio",)),
    41: Type("vhost-user-gpio", ("gpio_virtio",)),
}


def type_of(device: Device) -> Type:
    """Return the type of a device. Raises `GuestError` for one that QEMU cannot attach."""
    found = TYPES.get(device.device_id)
    if found is None:
        raise GuestError(
            f"QEMU attaches no {type(device).__name__}: it has no vhost-user frontend for devices "
            f"of type {device.device_id}, only for {', '.join(map(str, TYPES))}"
        )
    return found
