"""How long to wait before the same target is asked again, and how often that may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.errors import UpstreamRefused, UpstreamStatus
from trio_ai_proxy.routing.backoff import Budget, pause, wait_before


def limited(retry_after: float | None) -> UpstreamStatus:
    return UpstreamStatus("Slow down.", upstream_status=429, retry_after=retry_after)


def test_the_longest_pause_doubles_up_to_a_limit() -> None:
    assert [pause(failures, 1.0) for failures in (1, 2, 3, 4, 5, 6, 7, 1000)] == [0.25, 0.5, 1, 2, 4, 8, 8, 8]


def test_the_jitter_is_full() -> None:
    assert [pause(3, random) for random in (0.0, 0.25, 0.5)] == [0.0, 0.25, 0.5]


def test_retry_after_is_kept_and_spread_a_little() -> None:
    assert wait_before(limited(2.0), 1, left=10, random=0.0) == 2.0
    assert wait_before(limited(2.0), 1, left=10, random=0.5) == 2.125


@pytest.mark.parametrize("retry_after", [None, 0.0])
def test_without_retry_after_it_is_the_pause(retry_after: float | None) -> None:
    assert wait_before(limited(retry_after), 2, left=10, random=0.5) == 0.25
    assert wait_before(UpstreamRefused("No."), 2, left=10, random=0.5) == 0.25


@pytest.mark.parametrize(
    ("retry_after", "left", "fits"), [(2, 3.0, True), (2, 2.9, False), (60, 900, True), (61, 900, False)]
)
def test_what_does_not_fit_the_deadline_is_not_waited_for(retry_after: float, left: float, fits: bool) -> None:
    assert wait_before(limited(retry_after), 1, left=left, random=0.0) == (retry_after if fits else None)


@pytest.mark.parametrize("retry_after", [None, 2.0, 3600.0])
def test_what_one_of_several_credentials_was_told_takes_the_place_of_the_error_s_own(retry_after: float | None) -> None:
    assert wait_before(limited(retry_after), 1, left=100, random=0.5, rest=7.0) == 7.125
    assert wait_before(limited(retry_after), 1, left=100, random=0.5, rest=0.0) == 0.125
    assert wait_before(limited(retry_after), 1, left=100, random=0.5, rest=61.0) is None


def test_no_pause_is_worth_it_when_nothing_is_left_after_it() -> None:
    assert wait_before(UpstreamRefused("No."), 1, left=1.0, random=0.0) == 0.0
    assert wait_before(UpstreamRefused("No."), 1, left=1.0, random=0.5) is None


@given(failures=st.integers(1, 10_000), random=st.floats(0, 1, exclude_max=True), left=st.floats(0, 1000))
def test_a_pause_is_never_longer_than_what_is_left(failures: int, random: float, left: float) -> None:
    wait = wait_before(UpstreamRefused("No."), failures, left=left, random=random)
    assert wait is None or 0 <= wait <= min(left, 8.0)


def test_the_extra_load_is_a_fifth_and_a_floor() -> None:
    budget, spent = Budget(), 0
    for number in range(10_000):  # 50 a second, and each of them fails
        now = number / 50
        budget.earn(now)
        spent += budget.spend(now)
    assert 0.2 * 10_000 <= spent <= 0.2 * 10_000 + 0.1 * 200 + 10


def test_a_quiet_target_may_be_retried_each_time() -> None:
    budget = Budget()
    for number in range(100):  # one every ten seconds
        budget.earn(number * 10.0)
        assert budget.spend(number * 10.0)


def test_time_fills_an_empty_budget_to_its_limit_and_no_further() -> None:
    budget = Budget(ratio=0.5, per_second=1.0, burst=2.0, now=100.0)
    assert [budget.spend(100.0) for _ in range(3)] == [True, True, False]
    assert not budget.has(100.9)
    assert budget.has(101.0)
    assert budget.held == pytest.approx(1.0)
    assert budget.has(200.0)
    assert budget.held == 2.0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = Budget(burst=1.0, per_second=1.0, now=50.0)
    assert budget.spend(50.0)
    assert not budget.spend(10.0)
    assert not budget.spend(50.5)
    assert budget.spend(51.0)
