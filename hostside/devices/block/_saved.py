"""What a disk tells the one that takes its place when its guest goes elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from paravirt.transport import NegotiationError

if TYPE_CHECKING:
    from paravirt.transport.wire.block import BlockConfig

__all__ = ()  # of use to this room only

VERSION = 1


class SavedDisk(msgspec.Struct, frozen=True):
    """The document, as MessagePack."""

    version: int
    config: bytes
    """The configuration space, with the cache mode that the driver chose."""
    serial: bytes


def save_disk(space: BlockConfig, serial: bytes) -> bytes:
    """Return the document of a disk."""
    return msgspec.msgpack.encode(SavedDisk(VERSION, space.to_bytes(), serial))


def load_disk(state: bytes, space: BlockConfig, serial: bytes) -> int:
    """Return the cache mode of the disk that was saved.

    Raises `NegotiationError` if that is not the disk which is here: a driver would go on with the
    capacity, and by the limits, that it read once.
    """
    try:
        saved = msgspec.msgpack.decode(state, type=SavedDisk)
        if saved.version != VERSION:
            raise NegotiationError(f"a disk's state of version {saved.version}, not {VERSION}")
        there = type(space).from_bytes(saved.config)
    except ValueError as error:
        raise NegotiationError(f"this is no disk's state: {error}") from None
    for name, ours in msgspec.structs.asdict(space).items():
        if name != "writeback" and getattr(there, name) != ours:
            raise NegotiationError(
                f"the disk that comes has {name} {getattr(there, name)}, not {ours}"
            )
    if saved.serial != serial:
        raise NegotiationError(f"the disk that comes has serial {saved.serial!r}, not {serial!r}")
    if there.writeback not in (0, 1):
        raise NegotiationError(f"the disk that comes has a cache mode of {there.writeback}")
    return there.writeback
