"""The protocol features whose bits peers disagree about."""

from __future__ import annotations

import pytest

from paravirt.transport.vhost_user import Dialect, ProtocolFeature

QEMU_11 = Dialect(get_vring_base_inflight=20, gpa_addresses=21, shmem=22)
RUST_VMM_16 = Dialect(get_vring_base_inflight=20, shmem=21)


def test_bits_below_20_are_the_same_for_all() -> None:
    everything = ProtocolFeature(0xFFFFF)

    assert Dialect().to_wire(everything) == 0xFFFFF
    assert QEMU_11.from_wire(0xFFFFF) == everything


def test_bits_from_20_on_mean_nothing_unless_configured() -> None:
    assert Dialect().from_wire(0x7 << 20) == ProtocolFeature(0)


def test_one_bit_means_what_the_dialect_says() -> None:
    assert QEMU_11.from_wire(1 << 21) == ProtocolFeature.GPA_ADDRESSES
    assert RUST_VMM_16.from_wire(1 << 21) == ProtocolFeature.SHMEM


def test_feature_goes_out_at_the_bit_of_the_dialect() -> None:
    assert QEMU_11.to_wire(ProtocolFeature.SHMEM) == 1 << 22
    assert RUST_VMM_16.to_wire(ProtocolFeature.SHMEM) == 1 << 21


def test_feature_without_a_bit_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="GPA_ADDRESSES"):
        RUST_VMM_16.to_wire(ProtocolFeature.GPA_ADDRESSES)


@pytest.mark.parametrize("bits", [(21, 21), (19, 22), (21, 64)])
def test_bits_that_cannot_be_are_refused(bits: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="each needs its own"):
        Dialect(gpa_addresses=bits[0], shmem=bits[1])


def test_features_have_names_for_people() -> None:
    some = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.DEVICE_STATE

    assert some.words == ["several queues", "acknowledgement on request", "device state"]
