"""The table itself: complete, documented, and of one mind with the protocol's document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from paravirt.transport import PeerError
from paravirt.transport.vhost_user import (
    BACKEND_REQUESTS,
    REQUESTS,
    BackendRequest,
    Message,
    ProtocolFeature,
    Reply,
    Request,
    document,
    payloads,
)

from .wires import ROWS, fd_count, name, wire

if TYPE_CHECKING:
    import random

GPU_SET_SOCKET = 33


def test_every_request_up_to_44_has_a_row_but_the_gpu() -> None:
    assert set(REQUESTS) == set(Request) == set(range(1, 45)) - {GPU_SET_SOCKET}
    assert set(BACKEND_REQUESTS) == set(BackendRequest) == set(range(1, 11))


def test_each_row_is_named_as_its_number() -> None:
    assert [row.name for row in REQUESTS.values()] == [one.name for one in Request]
    assert [row.name for row in BACKEND_REQUESTS.values()] == [one.name for one in BackendRequest]


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_row_is_documented(row: Message) -> None:
    assert row.text.endswith((".", "?"))
    assert f"| {row.id} | `{row.name}`: {row.text} |" in document()


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_row_takes_no_more_descriptors_than_the_protocol_allows(row: Message) -> None:
    assert 0 <= row.fds[0] <= row.fds[1] <= payloads.MAX_FDS
    assert 0 <= row.answer_fds[0] <= row.answer_fds[1] <= 1


def test_only_what_is_not_answered_anyway_is_acknowledged() -> None:
    """REPLY_ACK is for messages without a reply of their own."""
    own = {row.name for row in REQUESTS.values() if row.reply is Reply.OWN}

    assert {one for one in own if not one.startswith(("GET_", "POSTCOPY_"))} == {
        "SET_LOG_BASE",
        "CREATE_CRYPTO_SESSION",
        "SET_DEVICE_STATE_FD",
        "CHECK_DEVICE_STATE",
    }


def test_what_belongs_to_a_protocol_feature_needs_it() -> None:
    assert REQUESTS[Request.GET_CONFIG].needs == ProtocolFeature.CONFIG
    assert REQUESTS[Request.SET_STATUS].needs == ProtocolFeature.STATUS
    assert not REQUESTS[Request.SET_VRING_ENABLE].needs


@pytest.mark.parametrize(
    ("which", "size"),
    [
        (Request.SET_FEATURES, 8),
        (Request.SET_MEM_TABLE, 8 + 2 * 32),
        (Request.SET_VRING_ADDR, 40),
        (Request.SET_LOG_BASE, 16),
        (Request.GET_INFLIGHT_FD, 24),
        (Request.ADD_MEM_REG, 40),
        (Request.IOTLB_MSG, 32),
        (Request.GET_CONFIG, 12 + 20),
    ],
)
def test_payload_has_the_size_that_qemu_sends(
    which: Request, size: int, rng: random.Random
) -> None:
    assert len(wire(REQUESTS[which].payload, rng)) == size


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_payload_survives_the_wire(row: Message, rng: random.Random) -> None:
    data = wire(row.payload, rng)
    payload = row.parse(data, fd_count(row, data))

    assert payload.to_bytes() == data
    assert row.payload.from_bytes(payload.to_bytes()) == payload


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_answer_survives_the_wire(row: Message, rng: random.Random) -> None:
    data = wire(row.answer, rng)
    fds = row.answer.from_bytes(data).fds

    assert row.parse_reply(data, row.answer_fds[1] if fds is None else fds).to_bytes() == data


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_every_wrong_count_of_descriptors_is_refused(row: Message, rng: random.Random) -> None:
    data = wire(row.payload, rng)
    wanted = row.payload.from_bytes(data).fds
    right = range(row.fds[0], row.fds[1] + 1) if wanted is None else [wanted]

    for count in set(range(payloads.MAX_FDS + 2)) - set(right):
        with pytest.raises(PeerError, match=f"{row.name}: {count} descriptors"):
            row.parse(data, count)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_every_shorter_payload_is_refused(row: Message, rng: random.Random) -> None:
    """Except what may be left out: padding at the end, and bytes that nobody reads."""
    data = wire(row.payload, rng)
    allowed = list(range(len(data))) if row.payload is payloads.Opaque else []
    allowed = [20] if row.payload is payloads.Inflight else allowed

    for size in set(range(len(data))) - set(allowed):
        with pytest.raises(PeerError, match=row.name):
            row.parse(data[:size], row.fds[1])


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_longer_payload_is_refused(row: Message) -> None:
    size = row.payload.sizes().stop

    with pytest.raises(PeerError, match=f"{row.name}: a payload of {size} bytes"):
        row.check_size(size)


def test_memory_table_that_lies_about_its_regions_is_refused() -> None:
    lie = (3).to_bytes(8, "little") + bytes(2 * 32)

    with pytest.raises(PeerError, match="3 regions"):
        payloads.MemoryTable.from_bytes(lie)


def test_configuration_access_that_lies_about_its_size_is_refused() -> None:
    honest = payloads.ConfigAccess(0, 0, b"abcd").to_bytes()

    with pytest.raises(PeerError, match="4 bytes that has 3"):
        payloads.ConfigAccess.from_bytes(honest[:-1])


def test_number_that_does_not_fit_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="4294967296"):
        payloads.VringState(1 << 32, 0).to_bytes()


def test_refusal_of_a_configuration_read_is_empty() -> None:
    row = REQUESTS[Request.GET_CONFIG]

    row.check_size(0, reply=True)
    assert row.parse_reply(b"", 0) == payloads.EMPTY
