"""A device's configuration space as a fixed layout (virtio 1.4, 2.5).

    class BlockConfig(ConfigSpace, frozen=True):
        capacity: U64 = 0
        serial: Annotated[bytes, Size(4)] = bytes(4)

Fields lie in the order they are written, little-endian, with no padding but what is a field itself.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import struct
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Self, get_args

import msgspec


@dataclass(frozen=True)
class _Unsigned:
    """An unsigned integer: its code for `struct`, and its width."""

    code: str
    bits: int

    def problem(self, value: object) -> str | None:
        """Say why the value cannot be packed, or None."""
        if isinstance(value, int) and 0 <= value < 1 << self.bits:
            return None
        return f"{value!r} is no unsigned integer of {self.bits} bits"


@dataclass(frozen=True)
class Size:
    """The length of a field of bytes, as in `Annotated[bytes, Size(6)]`."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"a field of {self.length} bytes")

    @property
    def code(self) -> str:
        """The code for `struct`."""
        return f"{self.length}s"

    def problem(self, value: object) -> str | None:
        """Say why the value cannot be packed, or None."""
        if isinstance(value, bytes) and len(value) == self.length:
            return None
        return f"{value!r} is not {self.length} bytes"


U8 = Annotated[int, _Unsigned("B", 8)]
U16 = Annotated[int, _Unsigned("H", 16)]
U32 = Annotated[int, _Unsigned("I", 32)]
U64 = Annotated[int, _Unsigned("Q", 64)]


class ConfigSpace(msgspec.Struct, frozen=True):
    """The base of configuration spaces; use it as the module says, change it with `replace`.

    Fields are U8, U16, U32, U64 or `Annotated[bytes, Size(n)]`. The layout is worked out when it is
    first needed; anything else raises `TypeError` then.
    """

    def to_bytes(self) -> bytes:
        """Return the space as the driver sees it.

        Raises `ValueError`, naming the field, for a value that does not fit.
        """
        layout = _layout(type(self))
        values: tuple[object, ...] = msgspec.structs.astuple(self)
        for name, kind, value in zip(layout.names, layout.kinds, values, strict=True):
            if problem := kind.problem(value):
                raise ValueError(f"{type(self).__name__}.{name}: {problem}")
        return layout.packer.pack(*values)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the space as a driver does (2.5.1).

        A longer space is fine. Fields that a shorter one has not, or not wholly, take their
        default, or else zero.
        """
        layout = _layout(cls)
        present = sum(end <= len(data) for end in layout.offsets[1:])
        whole = data[: layout.offsets[present]].ljust(layout.packer.size, b"\0")
        read = layout.packer.unpack(whole)
        return msgspec.convert(
            {
                name: value
                for index, (name, value) in enumerate(zip(layout.names, read, strict=True))
                if index < present or name in layout.required
            },
            cls,
        )

    @classmethod
    def wire_size(cls) -> int:
        """Return the length of the space in bytes."""
        return _layout(cls).packer.size

    @classmethod
    def offset_of(cls, name: str) -> int:
        """Return where a field begins; raises `ValueError` if there is none of that name."""
        layout = _layout(cls)
        return layout.offsets[layout.names.index(name)]


class _Layout(NamedTuple):
    names: tuple[str, ...]
    kinds: tuple[_Unsigned | Size, ...]
    offsets: tuple[int, ...]
    """Where each field begins, and after them where the space ends."""
    required: frozenset[str]
    """The fields without a default."""
    packer: struct.Struct


@functools.cache
def _layout(cls: type[ConfigSpace]) -> _Layout:
    parameters = inspect.signature(cls).parameters.values()
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters):
        # msgspec moves such fields behind all others, base classes' included.
        raise TypeError(f"{cls.__name__}: kw_only changes the order of the fields")
    fields = msgspec.structs.fields(cls)
    kinds = tuple(_kind(cls, field) for field in fields)
    lengths = [struct.calcsize("<" + kind.code) for kind in kinds]
    return _Layout(
        names=tuple(field.name for field in fields),
        kinds=kinds,
        offsets=tuple(itertools.accumulate(lengths, initial=0)),
        required=frozenset(field.name for field in fields if field.required),
        packer=struct.Struct("<" + "".join(kind.code for kind in kinds)),
    )


def _kind(cls: type[ConfigSpace], field: msgspec.structs.FieldInfo) -> _Unsigned | Size:
    for extra in get_args(field.type)[1:]:
        if isinstance(extra, _Unsigned | Size):
            return extra
    raise TypeError(
        f"{cls.__name__}.{field.name}: a field is U8, U16, U32, U64 or Annotated[bytes, Size(n)]"
    )
