"""What vhost-user messages carry: fixed layouts, in host byte order and without padding."""

from __future__ import annotations

import enum
import itertools
import struct
from typing import ClassVar, Self

import msgspec

from .._errors import PeerError

MAX_FDS = 8
"""Descriptors with one message, the most that the protocol allows."""
MAX_REGIONS = 8
"""Regions of one SET_MEM_TABLE: each has a descriptor."""
MAX_CONFIG = 4096
"""Bytes of configuration space in one message; the largest that a known peer takes."""
MAX_SHARED_MEMORIES = 256
"""A shared memory region's number has 8 bits."""
MAX_OPAQUE = 4096
"""Bytes of a payload that we pass on unread."""


class Payload(msgspec.Struct, frozen=True):
    """The base: the fields of a subclass, in order, are packed by its `layout`."""

    layout: ClassVar[struct.Struct]
    slack: ClassVar[int] = 0
    """Bytes of padding at the end that a peer may leave out."""
    most: ClassVar[int] = 0
    """Bytes that may follow the layout."""

    @classmethod
    def sizes(cls) -> range:
        """Return the sizes that such a payload may have on the wire."""
        return range(cls.layout.size - cls.slack, cls.layout.size + cls.most + 1)

    @property
    def fds(self) -> int | None:
        """How many descriptors must come with it, where it says so itself."""
        return None

    def to_bytes(self) -> bytes:
        """Return the wire form. Raises `ValueError` for a number that does not fit."""
        return pack(self.layout, *msgspec.structs.astuple(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the wire form. Raises `PeerError` if it is malformed."""
        cls.check_size(len(data))
        return cls(*cls.layout.unpack(data.ljust(cls.layout.size, b"\0")))

    @classmethod
    def check_size(cls, size: int) -> None:
        """Raise `PeerError` if no such payload has that many bytes."""
        least, most = cls.sizes().start, cls.sizes().stop - 1
        if not least <= size <= most or (cls.slack and least < size < most):
            between = "or" if cls.slack else "to"
            wanted = f"{least}" if least == most else f"{least} {between} {most}"
            raise PeerError(f"a payload of {size} bytes, not of {wanted}")


def pack(layout: struct.Struct, *values: object) -> bytes:
    """Pack numbers. Raises `ValueError`, where struct has an error of its own."""
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise ValueError(f"{values}: {error}") from None


class Empty(Payload, frozen=True):
    """Nothing."""

    layout = struct.Struct("=")


class Number(Payload, frozen=True):
    """One number: features, a count, or an answer where 0 is success."""

    layout = struct.Struct("=Q")
    value: int


class VringState(Payload, frozen=True):
    """A number of one queue: its size, its base, or whether it is enabled."""

    layout = struct.Struct("=II")
    index: int
    value: int


class VringAddress(Payload, frozen=True):
    """Where a queue lies, in the frontend's addresses (with GPA_ADDRESSES: the guest's)."""

    layout = struct.Struct("=II4Q")
    LOG: ClassVar[int] = 1
    """The flag: what is written to the device ring is logged at `log`."""
    index: int
    flags: int
    desc: int
    device: int
    """The used ring."""
    driver: int
    """The available ring, which on the wire comes last."""
    log: int = 0


class VringFile(Payload, frozen=True):
    """A queue that a kick, call or error descriptor is for."""

    layout = struct.Struct("=Q")
    NO_FD: ClassVar[int] = 1 << 8
    """The flag: there is no descriptor, the peer polls."""
    value: int

    @property
    def index(self) -> int:
        """The queue."""
        return self.value & 0xFF

    @property
    def fds(self) -> int:
        """No descriptor with the flag, one without."""
        return 0 if self.value & self.NO_FD else 1


class MemoryRegion(Payload, frozen=True):
    """A piece of guest memory: where the guest and the frontend have it, where it is in a file."""

    layout = struct.Struct("=8x4Q")
    addr: int
    size: int
    user: int
    """Its address in the frontend's process."""
    offset: int


class MemoryTable(Payload, frozen=True):
    """All of guest memory, a descriptor with each region."""

    layout = struct.Struct("=I4x")
    row: ClassVar[struct.Struct] = struct.Struct("=4Q")
    most = MAX_REGIONS * 32
    regions: tuple[MemoryRegion, ...]

    @property
    def fds(self) -> int:
        """One descriptor a region."""
        return len(self.regions)

    def to_bytes(self) -> bytes:
        """Return the wire form. Raises `ValueError` for too many regions."""
        if len(self.regions) > MAX_REGIONS:
            raise ValueError(f"{len(self.regions)} regions, the most is {MAX_REGIONS}")
        rows = (pack(self.row, *msgspec.structs.astuple(region)) for region in self.regions)
        return b"".join((pack(self.layout, len(self.regions)), *rows))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the wire form. Raises `PeerError` if it is malformed."""
        cls.check_size(len(data))
        (count,) = cls.layout.unpack_from(data)
        body = data[cls.layout.size :]
        if count > MAX_REGIONS or len(body) != count * cls.row.size:
            raise PeerError(f"a memory table of {count} regions in {len(body)} bytes")
        return cls(tuple(MemoryRegion(*row) for row in cls.row.iter_unpack(body)))


class LogArea(Payload, frozen=True):
    """Where the log of written pages lies in the file that comes with it."""

    layout = struct.Struct("=QQ")
    size: int
    offset: int


class IotlbMessage(Payload, frozen=True):
    """An entry of the device's translation table: asked for, given or taken back."""

    layout = struct.Struct("=QQQBB6x")
    iova: int
    size: int
    user: int
    permission: int
    type: int


class ConfigAccess(Payload, frozen=True):
    """Bytes of the configuration space."""

    layout = struct.Struct("=III")
    most = MAX_CONFIG
    WRITABLE: ClassVar[int] = 0
    """The flag of a write by the driver: to writable fields."""
    MIGRATION: ClassVar[int] = 1
    """The flag of a write by a migration: to any field."""
    offset: int
    flags: int
    data: bytes

    def to_bytes(self) -> bytes:
        """Return the wire form. Raises `ValueError` for too many bytes."""
        if len(self.data) > MAX_CONFIG:
            raise ValueError(f"{len(self.data)} bytes of configuration, the most is {MAX_CONFIG}")
        return pack(self.layout, self.offset, len(self.data), self.flags) + self.data

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the wire form. Raises `PeerError` if it is malformed."""
        cls.check_size(len(data))
        offset, size, flags = cls.layout.unpack_from(data)
        body = data[cls.layout.size :]
        if size != len(body):
            raise PeerError(f"a configuration access of {size} bytes that has {len(body)}")
        return cls(offset, flags, body)


class Inflight(Payload, frozen=True):
    """The file that remembers which requests a backend had, by queue."""

    layout = struct.Struct("=QQHH4x")
    slack = 4
    size: int
    offset: int
    queues: int
    queue_size: int


class ObjectName(Payload, frozen=True):
    """A shared object's UUID."""

    layout = struct.Struct("=16s")
    uuid: bytes


class StateDirection(enum.IntEnum):
    """Which way the device's state goes."""

    SAVE = 0
    LOAD = 1


class StateTransfer(Payload, frozen=True):
    """How the device's state goes through the pipe that comes with it."""

    layout = struct.Struct("=II")
    direction: int
    phase: int
    """0, while the device is stopped; there is no other yet."""


class StateAnswer(Number, frozen=True):
    """Whether the state can go, and by which pipe."""

    NO_FD: ClassVar[int] = 1 << 8
    """The flag: the frontend's pipe is used, none comes back."""

    @property
    def fds(self) -> int:
        """No descriptor with the flag or after a refusal, one otherwise."""
        return 0 if self.value & 0x1FF else 1


class SharedMemoryConfig(Payload, frozen=True):
    """The sizes of the device's shared memory regions, 0 for those it does not have."""

    layout = struct.Struct(f"=I4x{MAX_SHARED_MEMORIES}Q")
    count: int
    sizes_by_id: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Return the wire form. Raises `ValueError` unless there are 256 sizes."""
        return pack(self.layout, self.count, *self.sizes_by_id)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the wire form. Raises `PeerError` if it is malformed."""
        cls.check_size(len(data))
        count, *lengths = cls.layout.unpack(data)
        return cls(count, tuple(lengths))


class SharedMemoryMap(Payload, frozen=True):
    """A piece of a file to map into, or to take from, a shared memory region."""

    layout = struct.Struct("=B7x4Q")
    id: int
    fd_offset: int
    offset: int
    size: int
    flags: int


class VringArea(Payload, frozen=True):
    """Where a queue can be kicked by a store to memory."""

    layout = struct.Struct("=QQQ")
    value: int
    size: int
    offset: int

    @property
    def fds(self) -> int:
        """No descriptor takes the area back, one gives it."""
        return 0 if self.value & VringFile.NO_FD else 1


class Opaque(Payload, frozen=True):
    """Bytes whose layout differs by the peer's version."""

    layout = struct.Struct("=")
    most = MAX_OPAQUE
    data: bytes

    def to_bytes(self) -> bytes:
        """Return the bytes."""
        return self.data

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Take the bytes. Raises `PeerError` for too many."""
        cls.check_size(len(data))
        return cls(data)


def _longest() -> int:
    todo, longest = [Payload], 0
    while todo:
        kinds = list(itertools.chain.from_iterable(kind.__subclasses__() for kind in todo))
        longest = max([longest, *(kind.sizes().stop - 1 for kind in kinds)])
        todo = kinds
    return longest


MAX_PAYLOAD = _longest()
"""Bytes of the longest payload: what a channel reads of a message that it does not know."""
EMPTY = Empty()
