"""Random negotiations against an obvious model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, strategies as st

from paravirt.transport._errors import NegotiationError

from .negotiation import (
    ACK,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    NEEDS_RESET,
    OFFERED,
    SUSPEND,
    V1,
    ZEROES,
    device,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Ladder:
    """The status as a ladder that a driver climbs, and the few things that must be remembered."""

    RUNGS = (0, ACK, DRIVER, FEATURES_OK, DRIVER_OK)

    def __init__(self) -> None:
        self.rung = self.failed = self.needs_reset = 0
        self.resetting = self.asked = self.good = False

    @property
    def status(self) -> int:
        return self.rung | self.failed | self.needs_reset

    def write(self, value: int) -> bool:
        """Say whether the driver may write this, and follow it."""
        if value == 0:
            self.resetting = self.status != 0
            return True
        claimed = value & ~(SUSPEND | NEEDS_RESET | FAILED)
        if self.resetting or (value & NEEDS_RESET and not self.needs_reset):
            return False
        if value & FAILED and not self.failed:
            possible = claimed | DRIVER_OK == DRIVER_OK and claimed & self.rung == self.rung
            self.failed = FAILED if possible else 0
            return possible
        if self.failed:
            return claimed == self.rung and bool(value & FAILED)
        return self.climb(claimed)

    def climb(self, claimed: int) -> bool:
        if claimed == self.rung:
            return True
        if claimed not in self.RUNGS or claimed < self.rung:
            return False
        if claimed == DRIVER_OK and self.rung != FEATURES_OK:
            return False
        if claimed == FEATURES_OK and self.asked:
            return False
        if claimed == FEATURES_OK:
            self.asked = True
            self.rung = FEATURES_OK if self.good else DRIVER
        else:
            self.rung = claimed
        return True

    def write_features(self, good: bool) -> bool:
        allowed = self.rung >= DRIVER and not (self.asked or self.failed or self.resetting)
        self.good = good if allowed else self.good
        return allowed

    def set_needs_reset(self) -> None:
        self.needs_reset = self.needs_reset if self.resetting else NEEDS_RESET

    def finish_reset(self) -> None:
        if self.resetting:
            self.__init__()  # type: ignore[misc]


def accepted(access: Callable[[int], None], value: int) -> bool:
    try:
        access(value)
    except NegotiationError:
        return False
    return True


LIKELY = st.sampled_from([0, ACK, DRIVER, FEATURES_OK, FEATURES_OK, DRIVER_OK, FAILED | 3, 79])
STATUS = st.tuples(st.just("status"), st.one_of(LIKELY, st.integers(0, 300)))
FEATURES = st.tuples(st.just("features"), st.sampled_from([V1, V1, OFFERED, 0, V1 | ZEROES]))
OURS = st.tuples(st.sampled_from(["need_reset", "finish_reset"]), st.just(0))


@given(st.lists(st.one_of(STATUS, FEATURES, OURS), max_size=30))
def test_every_sequence_of_writes_follows_the_model(steps: list[tuple[str, int]]) -> None:
    """2.1.1, 2.1.2, 2.2.1, 2.2.2, 2.4, 3.1.1."""
    state, model = device(), Ladder()
    for what, value in steps:
        before = state.snapshot()
        taken = True
        if what == "status":
            taken = accepted(state.set_status, value)
            assert taken == model.write(value)
        elif what == "features":
            taken = accepted(state.set_driver_features, value)
            assert taken == model.write_features(value in (V1, OFFERED))
        elif what == "need_reset":
            state.need_reset()
            model.set_needs_reset()
        else:
            state.finish_reset()
            model.finish_reset()
        assert (state.status, state.resetting) == (model.status, model.resetting)
        assert taken or state.snapshot() == before


@given(st.lists(st.one_of(STATUS, FEATURES, OURS), max_size=30))
def test_every_state_can_be_stored_and_restored(steps: list[tuple[str, int]]) -> None:
    """What the rules let a driver reach, the same rules let a snapshot reach."""
    state, other = device(), device()
    for what, value in steps:
        if what == "status":
            accepted(state.set_status, value)
        elif what == "features":
            accepted(state.set_driver_features, value)
        else:
            getattr(state, what)()
    other.restore(state.snapshot())

    assert other.snapshot() == state.snapshot()
