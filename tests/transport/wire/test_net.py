"""The bytes of a network device: as the specification draws them (virtio 1.4, 5.1.4)."""

from __future__ import annotations

from paravirt.transport.wire.net import CONTROL, PAIRS, PAIRS_SET, ControlClass, NetConfig


def test_configuration_lies_as_the_specification_has_it() -> None:
    names = ["mac", "status", "max_virtqueue_pairs", "mtu", "speed", "duplex"]

    assert [NetConfig.offset_of(name) for name in names] == [0, 6, 8, 10, 12, 16]


def test_command_is_class_command_and_payload() -> None:
    """5.1.6.5.6."""
    assert CONTROL.pack(ControlClass.MQ, PAIRS_SET) + PAIRS.pack(2) == b"\4\0\2\0"
