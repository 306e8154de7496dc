"""Sums over the last so many seconds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.routing.window import SlidingSum


def test_what_is_older_than_the_window_is_forgotten() -> None:
    window = SlidingSum(10.0)
    window.add(3, 0.5)
    window.add(4, 5.5)
    assert [window.total(now) for now in (0.5, 9.9, 10.1, 15.0, 100.0)] == [7, 7, 4, 0, 0]


def test_it_can_be_cleared_and_takes_back_what_was_too_much() -> None:
    window = SlidingSum(10.0)
    window.add(500, 1.0)
    window.add(-200, 2.0)
    assert window.total(3.0) == 300
    window.clear()
    assert window.total(3.0) == 0


def test_a_clock_that_goes_back_changes_nothing() -> None:
    window = SlidingSum(10.0)
    window.add(1, 50.0)
    window.add(1, 10.0)
    assert window.total(50.0) == 2


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 9)), max_size=60))
def test_it_is_the_true_sum_to_within_a_tenth_of_the_window(steps: list[tuple[float, int]]) -> None:
    window, now, added = SlidingSum(30.0), 1000.0, []
    for pause, amount in steps:
        now += pause
        window.add(amount, now)
        added.append((now, amount))
        # A cell is three seconds: what is surely within the window counts, what is surely outside does not.
        least = sum(each for at, each in added if now - at < 26.9)
        most = sum(each for at, each in added if now - at < 30.1)
        assert least <= window.total(now) <= most
