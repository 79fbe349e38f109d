"""Exceptions by who is to blame, and the door from the core's codes to them."""

from __future__ import annotations

import errno
import pickle
import re
from pathlib import Path

import pytest
import trio

from paravirt.transport._errors import (
    ERRNO_BASE,
    AddressError,
    Cause,
    MemoryGone,
    NegotiationError,
    PeerError,
    RingBroken,
    check,
    refuse,
)

WIRE_H = Path(__file__).parents[2] / "transport" / "core" / "wire.h"


def test_causes_are_those_of_the_core_in_its_order() -> None:
    """Each number means the same in C and in Python."""
    names = re.findall(r"^ +PV_E_(\w+)(?: = 1)?,", WIRE_H.read_text(), flags=re.MULTILINE)

    assert names == [*(cause.name for cause in Cause), "COUNT"]
    assert [cause.value for cause in Cause] == list(range(1, ERRNO_BASE))


@pytest.mark.parametrize("cause", Cause)
def test_each_cause_says_what_happened(cause: Cause) -> None:
    """The sentence fits into a message: no capital, no full stop."""
    assert cause.text
    assert cause.text[0].islower()
    assert not cause.text.endswith(".")


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause < Cause.GONE])
def test_each_lie_names_its_clause(cause: Cause) -> None:
    """All that a ring can lie about is in 2.7."""
    assert re.fullmatch(r"2\.7(\.\d+)+", cause.clause)


@pytest.mark.parametrize("rc", [0, 1, 1 << 40])
def test_success_passes_unchanged(rc: int) -> None:
    assert check(rc) == rc


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (Cause.AVAIL_INDEX, RingBroken),
        (Cause.HEAD_RANGE, RingBroken),
        (Cause.HEAD_IN_FLIGHT, RingBroken),
        (Cause.USED_INDEX, RingBroken),
        (Cause.USED_ID, RingBroken),
        (Cause.BROKEN, RingBroken),
        (Cause.GONE, MemoryGone),
        (Cause.ADDRESS, AddressError),
        (Cause.ORDER, PeerError),
        (Cause.INDIRECT_NESTED, PeerError),
    ],
)
def test_the_peers_lies_raise_the_peers_errors(cause: Cause, kind: type[PeerError]) -> None:
    with pytest.raises(PeerError) as caught:
        check(-cause)

    assert type(caught.value) is kind
    assert caught.value.cause is cause
    assert caught.value.clause == cause.clause
    assert cause.text in str(caught.value)


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (Cause.FULL, trio.WouldBlock),
        (Cause.ARGUMENT, ValueError),
        (Cause.STALE, trio.ClosedResourceError),
    ],
)
def test_your_mistakes_are_not_blamed_on_the_peer(cause: Cause, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=cause.text):
        check(-cause)


def test_a_failed_system_call_raises_its_errno() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        check(-ERRNO_BASE - errno.ENOSPC)

    assert caught.value.errno == errno.ENOSPC


def test_a_code_without_meaning_is_our_bug() -> None:
    with pytest.raises(RuntimeError, match="no meaning"):
        check(-ERRNO_BASE)


def test_an_error_names_its_clause() -> None:
    with pytest.raises(NegotiationError) as caught:
        refuse("2.1.1", "a bit was cleared")

    assert str(caught.value) == "a bit was cleared (virtio 1.4, 2.1.1)"
    assert caught.value.cause is None


def test_an_error_without_clause_is_just_its_text() -> None:
    assert str(MemoryGone()) == Cause.GONE.text


def test_an_error_with_words_of_its_own_keeps_its_usual_cause() -> None:
    error = AddressError("4096 bytes at 0x1000")

    assert error.cause is Cause.ADDRESS
    assert str(error) == "4096 bytes at 0x1000 (virtio 1.4, 2.7.5)"


def test_an_error_survives_pickling() -> None:
    error = RingBroken("queue 3", cause=Cause.USED_ID)
    copy = pickle.loads(pickle.dumps(error))

    assert (str(copy), copy.cause, copy.clause) == (str(error), Cause.USED_ID, "2.7.8")
