"""The document: what is in a snapshot, and the file that it is kept in."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from pathlib import Path
from typing import Final, Self

import msgspec

from paravirt.doorbells.kvm import Vendor  # noqa: TC001  (msgspec looks these up)
from paravirt.transport.mmio import MmioSnapshot  # noqa: TC001

from .._cpuid import CpuidLeaf  # noqa: TC001
from .._extent import Extent  # noqa: TC001
from ..text import Text  # noqa: TC001

__all__ = ("LinkRecord", "QueueRecord", "Snapshot", "SnapshotError", "VcpuRecord")

VERSION: Final = 3
"""Of the document; another is refused."""
HEAD: Final = struct.Struct("<8sIQ32s")  # magic, version, bytes and SHA-256 of what follows
MAGIC: Final = b"pv-snap\0"


class SnapshotError(Exception):
    """A snapshot cannot be taken, read or put back; the text says what is wrong with it."""


class VcpuRecord(msgspec.Struct, frozen=True):
    """A vCPU: KVM's structures by name, as its ioctls give and take them, and its registers."""

    parts: dict[str, bytes]
    msrs: dict[int, int]


class QueueRecord(msgspec.Struct, frozen=True):
    """A queue that runs."""

    index: int
    used: int
    """The used index."""
    heads: tuple[int, ...]
    """Chains taken and not given back, in the order in which the driver offered them."""


class LinkRecord(msgspec.Struct, frozen=True):
    """A device: its register block, its queues, and what it keeps beside them."""

    block: MmioSnapshot
    queues: tuple[QueueRecord, ...]
    features: int
    """All that it offered."""
    state: bytes
    """What `Device.save_state` returned."""


class Snapshot(msgspec.Struct, frozen=True):
    """A machine that stands still. Nothing in one is trusted by `Machine.restore`."""

    memory_size: int
    ring: int
    end: int
    """Where the payload ends in memory."""
    vendor: Vendor
    """Of the CPU, as its CPUID said."""
    cpuid: tuple[CpuidLeaf, ...]
    """All that it said, on the first vCPU."""
    vcpus: tuple[VcpuRecord, ...]
    links: tuple[LinkRecord, ...]
    memory: tuple[Extent, ...]
    """All that is not zero."""
    text: Text
    """What is executable, as it was when the payload was loaded."""

    def save(self, path: str | Path) -> None:
        """Write it to a file, whole or not at all. Raises OSError."""
        target = Path(path)
        body = msgspec.msgpack.encode(self)
        head = HEAD.pack(MAGIC, VERSION, len(body), hashlib.sha256(body).digest())
        fd, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(head)
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read one. Raises SnapshotError for a file that is none, OSError if it cannot be read."""
        return cls.decode(Path(path).read_bytes())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read one from the bytes of a file. Raises SnapshotError."""
        if len(data) < HEAD.size or not data.startswith(MAGIC):
            raise SnapshotError("this is no snapshot of a machine")
        _, version, size, digest = HEAD.unpack_from(data)
        if version != VERSION:
            raise SnapshotError(f"a snapshot of version {version}: this reads version {VERSION}")
        body = memoryview(data)[HEAD.size :]
        if len(body) != size:
            raise SnapshotError(f"the snapshot has {len(body)} bytes of {size}: it was cut off")
        if hashlib.sha256(body).digest() != digest:
            raise SnapshotError("the snapshot is damaged: its hash differs")
        try:
            return msgspec.msgpack.decode(body, type=cls)
        except msgspec.DecodeError as error:
            raise SnapshotError(f"the snapshot makes no sense: {error}") from error
