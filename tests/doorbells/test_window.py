"""The spin window's rule."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from paravirt.doorbells import SpinWindow
from paravirt.doorbells._window import AT_ONCE_NS, MAXIMUM_NS, RETRY_SLEEPS


def misses_until_shut(window: SpinWindow) -> int:
    count = 0
    while window.ns:
        window.miss()
        count += 1
    return count


def test_hits_double_it_up_to_the_maximum() -> None:
    window = SpinWindow(10_000, maximum=30_000)
    widths: list[int] = []
    for _ in range(3):
        window.hit()
        widths.append(window.ns)

    assert widths == [20_000, 30_000, 30_000]


def test_misses_halve_it_down_to_the_minimum() -> None:
    window = SpinWindow(20_000, minimum=3_000)
    widths: list[int] = []
    for _ in range(4):
        window.miss()
        widths.append(window.ns)

    assert widths == [10_000, 5_000, 3_000, 3_000]


def test_window_too_narrow_to_be_worthwhile_is_shut() -> None:
    window = SpinWindow(3_000)
    window.miss()

    assert window.ns == 0


def test_shut_window_is_opened_wide_now_and_then() -> None:
    """Shut for good it would not notice that the peer became fast."""
    window = SpinWindow(0)
    for _ in range(RETRY_SLEEPS - 1):
        window.miss()
    shut = window.ns
    window.miss()

    assert shut == 0
    assert window.ns == MAXIMUM_NS


@pytest.mark.parametrize(("window", "width"), [
    (SpinWindow(0), AT_ONCE_NS),
    (SpinWindow(0, maximum=5_000), 5_000),
    (SpinWindow(20_000), 20_000),
    (SpinWindow(0, fixed=True), 0),
])  # fmt: skip
def test_work_before_a_sleep_opens_a_shut_window_that_may_open(
    window: SpinWindow, width: int
) -> None:
    window.at_once()

    assert window.ns == width
    assert (window.hits, window.misses) == (0, 0)


def test_looking_in_vain_costs_little_in_the_long_run() -> None:
    """Less than a tenth of the cheapest sleep, 10 us, is spent looking for a slow peer."""
    window = SpinWindow()
    looked = 0
    for _ in range(10 * RETRY_SLEEPS):
        looked += window.ns
        window.miss()

    assert looked / (10 * RETRY_SLEEPS) < 1_000


def test_work_found_without_a_look_does_not_open_it() -> None:
    window = SpinWindow(0)
    window.hit()

    assert window.ns == 0


def test_fixed_window_only_counts() -> None:
    window = SpinWindow(100_000, fixed=True)
    for _ in range(2 * RETRY_SLEEPS):
        window.miss()
    window.hit()

    assert window.ns == 100_000
    assert (window.hits, window.misses) == (1, 2 * RETRY_SLEEPS)
    assert str(window) == "100 us"


@pytest.mark.parametrize(
    ("ns", "minimum", "maximum"), [(-1, -1, 5), (5, 6, 7), (8, 6, 7), (60_000, 0, 50_000)]
)
def test_bounds_in_the_wrong_order_are_refused(ns: int, minimum: int, maximum: int) -> None:
    with pytest.raises(ValueError, match="minimum <= ns <= maximum"):
        SpinWindow(ns, minimum=minimum, maximum=maximum)


@given(
    bounds=st.lists(st.integers(0, 200_000), min_size=3, max_size=3).map(sorted),
    hits=st.lists(st.booleans(), max_size=400),
)
def test_it_never_leaves_its_bounds(bounds: list[int], hits: list[bool]) -> None:
    minimum, ns, maximum = bounds
    window = SpinWindow(ns, minimum=minimum, maximum=maximum)
    for hit in hits:
        (window.hit if hit else window.miss)()

        assert minimum <= window.ns <= maximum
