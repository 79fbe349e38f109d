"""The configuration space as bytes (virtio 1.4, 2.5)."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest
from hypothesis import given, strategies as st

from paravirt.transport._config import U8, U16, U32, U64, ConfigSpace, Size


class NetConfig(ConfigSpace, frozen=True):
    mac: Annotated[bytes, Size(6)] = bytes(6)
    status: U16 = 1
    pairs: U16 = 2
    mtu: U16 = 1500
    speed: U32 = 0xFFFFFFFF
    duplex: U8 = 0xFF


class PlainConfig(ConfigSpace, frozen=True):
    capacity: U64
    tag: Annotated[bytes, Size(3)]
    mode: U8


class WiderConfig(PlainConfig, frozen=True):
    extra: U32 = 7


class WrongConfig(ConfigSpace, frozen=True):
    size: int = 0


class ShuffledConfig(ConfigSpace, frozen=True, kw_only=True):
    size: U8 = 0


def test_fields_lie_in_order_little_endian_without_padding() -> None:
    """2.5: the space is little-endian; padding is a field of its own."""
    config = PlainConfig(0x0102030405060708, b"abc", 9)

    assert config.to_bytes() == bytes([8, 7, 6, 5, 4, 3, 2, 1]) + b"abc" + bytes([9])


def test_a_subclass_adds_fields_at_the_tail() -> None:
    """2.5: future fields are added at the tail."""
    assert WiderConfig(1, b"abc", 9).to_bytes()[12:] == bytes([7, 0, 0, 0])


def test_a_field_is_found_by_name() -> None:
    assert [NetConfig.offset_of(name) for name in ("mac", "mtu", "speed")] == [0, 10, 12]
    assert NetConfig.wire_size() == 17
    with pytest.raises(ValueError):
        NetConfig.offset_of("colour")


@given(
    st.builds(
        NetConfig,
        mac=st.binary(min_size=6, max_size=6),
        status=st.integers(0, 2**16 - 1),
        pairs=st.integers(0, 2**16 - 1),
        mtu=st.integers(0, 2**16 - 1),
        speed=st.integers(0, 2**32 - 1),
        duplex=st.integers(0, 2**8 - 1),
    ),
    st.binary(),
)
def test_a_space_reads_back_whatever_follows_it(config: NetConfig, tail: bytes) -> None:
    """2.5.1: a driver accepts a space that is longer than it knows."""
    assert NetConfig.from_bytes(config.to_bytes() + tail) == config


@given(st.integers(0, 17))
def test_a_short_space_leaves_the_rest_at_their_defaults(length: int) -> None:
    """2.5.1: a driver checks only that the space holds what it needs."""
    config = NetConfig(b"\1\2\3\4\5\6", 3, 4, 5, 6, 7)
    read = NetConfig.from_bytes(config.to_bytes()[:length])

    for name in NetConfig.__struct_fields__:
        whole = NetConfig.offset_of(name) + len(field_bytes(config, name)) <= length
        assert getattr(read, name) == getattr(config if whole else NetConfig(), name)


def field_bytes(config: NetConfig, name: str) -> bytes:
    offsets = [NetConfig.offset_of(field) for field in NetConfig.__struct_fields__]
    begin = NetConfig.offset_of(name)
    end = min((offset for offset in offsets if offset > begin), default=NetConfig.wire_size())
    return config.to_bytes()[begin:end]


@pytest.mark.parametrize("length", range(12))
def test_fields_without_default_are_zero_in_a_short_space(length: int) -> None:
    """2.5.1."""
    read = PlainConfig.from_bytes(b"\xff" * length)

    assert read.mode == 0
    assert read.tag == (b"\xff\xff\xff" if length == 11 else bytes(3))
    assert read.capacity == (2**64 - 1 if length >= 8 else 0)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (NetConfig(status=-1), "NetConfig.status: -1 is no unsigned integer of 16 bits"),
        (NetConfig(status=2**16), "NetConfig.status: 65536"),
        (NetConfig(speed=2**32), "NetConfig.speed"),
        (NetConfig(duplex=2**8), "NetConfig.duplex"),
        (NetConfig(mac=b"short"), "NetConfig.mac: b'short' is not 6 bytes"),
        (NetConfig(mac=bytes(7)), "NetConfig.mac"),
        (PlainConfig(2**64, b"abc", 0), "PlainConfig.capacity"),
    ],
)
def test_a_value_that_does_not_fit_is_named(config: ConfigSpace, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        config.to_bytes()


def test_a_space_is_changed_by_replace() -> None:
    config = NetConfig()
    changed = msgspec.structs.replace(config, mtu=9000)

    assert (config.mtu, changed.mtu) == (1500, 9000)
    assert changed.to_bytes()[10:12] == (9000).to_bytes(2, "little")
    with pytest.raises(AttributeError):
        config.mtu = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_field_without_width_is_refused() -> None:
    with pytest.raises(TypeError, match=r"WrongConfig\.size: a field is U8"):
        WrongConfig().to_bytes()


def test_fields_that_msgspec_would_reorder_are_refused() -> None:
    with pytest.raises(TypeError, match="order of the fields"):
        ShuffledConfig().to_bytes()


@pytest.mark.parametrize("length", [0, -1])
def test_a_field_of_no_bytes_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        Size(length)


def test_the_empty_space_has_no_bytes() -> None:
    """A device type without configuration, such as entropy (5.4.4)."""
    assert ConfigSpace().to_bytes() == b""
    assert ConfigSpace.from_bytes(b"whatever") == ConfigSpace()
