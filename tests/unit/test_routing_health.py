"""What is known of one target: how quick it is, how much it has to do, and what is left of it when a call ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.routing.health import Health, PeakEwma, Recent
from trio_ai_proxy.settings import BreakerSettings

if TYPE_CHECKING:
    from trio_ai_proxy.routing.breaker import Verdict


def health() -> Health:
    return Health(BreakerSettings(), now=0.0)


def answer(target: Health, now: float, ttft: float, *, tokens: int = 0, completion_tokens: int | None = None) -> None:
    """A whole answer that begins at `now`; its text takes one second after its first token."""
    trial = target.begin(now)
    target.sent(trial, now)
    target.first_token(trial, now + ttft)
    target.end(trial, now + ttft + 1, "success", tokens=tokens, completion_tokens=completion_tokens)


class TestPeakEwma:
    def test_nothing_is_known_at_first(self) -> None:
        assert PeakEwma().value(0.0) is None

    def test_a_worse_value_counts_at_once(self) -> None:
        latency = PeakEwma()
        latency.observe(0.5, 0.0)
        latency.observe(8.0, 0.1)
        assert latency.value(0.1) == 8.0

    def test_it_recovers_by_and_by(self) -> None:
        latency = PeakEwma()
        latency.observe(8.0, 0.0)
        values = []
        for second in range(1, 181):
            latency.observe(0.5, float(second))
            values.append(latency.value(float(second)) or 0.0)
        assert values == sorted(values, reverse=True)
        assert values[0] > 7.0
        assert values[60] < 2.0
        assert values[-1] == pytest.approx(0.5, rel=0.1)

    def test_who_is_not_asked_is_forgiven_slowly(self) -> None:
        latency = PeakEwma()
        latency.observe(8.0, 0.0)
        assert latency.value(60.0) == pytest.approx(8.0 * math.exp(-0.1))
        assert (latency.value(3600.0) or 0.0) < 0.1

    def test_a_wait_that_was_given_up_is_a_lower_bound(self) -> None:
        latency = PeakEwma()
        latency.at_least(3.0, 0.0)
        assert latency.value(0.0) is None
        latency.observe(2.0, 0.0)
        latency.at_least(1.0, 0.0)
        assert latency.value(0.0) == 2.0
        latency.at_least(5.0, 0.0)
        assert latency.value(0.0) == 5.0


class TestRecent:
    def test_too_few_values_have_no_quantile(self) -> None:
        recent = Recent()
        for value in range(19):
            recent.add(value)
        assert recent.quantile(0.95) is None
        recent.add(19)
        assert recent.quantile(0.95) == 18

    @given(st.lists(st.floats(0, 100), min_size=20, max_size=450))
    def test_it_is_the_quantile_of_the_last_two_hundred(self, values: list[float]) -> None:
        recent = Recent()
        for value in values:
            recent.add(value)
        last = sorted(values[-200:])
        assert recent.quantile(0.95) == last[math.ceil(0.95 * len(last)) - 1]


class TestCalls:
    def test_the_time_to_the_first_token_counts_from_when_the_request_went_out(self) -> None:
        target = health()
        trial = target.begin(0.0)
        target.sent(trial, 4.0)  # four seconds in our own queue
        target.first_token(trial, 4.5)
        assert target.ttft(4.5) == 0.5
        target.first_token(trial, 9.0)
        assert target.ttft(4.5) == 0.5

    def test_the_pace_counts_from_the_first_token(self) -> None:
        target = health()
        answer(target, 0.0, 2.0, completion_tokens=51)
        assert target.per_token(3.0) == pytest.approx(1 / 50)

    def test_a_one_shot_answer_has_a_pace_and_no_first_token(self) -> None:
        target = health()
        trial = target.begin(0.0)
        target.end(trial, 2.0, "success", completion_tokens=100)
        assert (target.per_token(2.0), target.ttft(2.0)) == (0.02, None)

    @pytest.mark.parametrize("completion_tokens", [None, 0, 1])
    def test_an_answer_without_a_second_token_has_no_pace(self, completion_tokens: int | None) -> None:
        target = health()
        answer(target, 0.0, 1.0, completion_tokens=completion_tokens)
        assert target.per_token(2.0) is None

    def test_a_call_ends_once(self) -> None:
        target = health()
        trial = target.begin(0.0, tokens=100)
        assert (target.in_flight, target.tokens(0.0)) == (1, 100)
        target.end(trial, 1.0, "success", tokens=40)
        target.end(trial, 1.0, "failure", tokens=9000)
        target.first_token(trial, 2.0)
        assert (target.in_flight, target.tokens(1.0), target.breaker.consecutive, target.ttft(2.0)) == (0, 40, 0, None)

    def test_what_nobody_knows_better_stays_as_it_was_expected(self) -> None:
        target = health()
        target.end(target.begin(0.0, tokens=100), 1.0, "none")
        assert target.tokens(1.0) == 100

    def test_usage_is_that_of_the_last_minute(self) -> None:
        target = health()
        for second in range(0, 300, 10):
            answer(target, float(second), 0.1, tokens=10)
        assert target.requests(290.0) == 6
        assert target.tokens(292.0) == 60
        assert (target.requests(400.0), target.tokens(400.0)) == (0, 0)

    def test_usage_that_was_expected_and_forgotten_is_never_less_than_nothing(self) -> None:
        target = health()
        trial = target.begin(0.0, tokens=1000)
        target.end(trial, 300.0, "success", tokens=10)
        assert target.tokens(300.0) == 0

    def test_a_silent_target_is_as_slow_as_one_waited(self) -> None:
        target = health()
        answer(target, 0.0, 0.5)
        target.end(target.begin(10.0), 40.0, "failure")
        assert target.ttft(40.0) == 30.0

    def test_a_lost_hedge_counts_among_the_slow_ones(self) -> None:
        """Else the slow tail would be cut off, and the 95th percentile would fall with every hedge."""
        target = health()
        for number in range(100):
            answer(target, float(number), 1.0)
        for number in range(10):
            target.end(target.begin(200.0 + number), 200.0 + number + 1.5, "none")
        assert target.p95() == 1.5

    def test_a_client_that_leaves_early_says_nothing_of_the_target(self) -> None:
        target = health()
        for number in range(100):
            answer(target, float(number), 1.0)
        for number in range(100):
            target.end(target.begin(200.0 + number), 200.0 + number + 0.01, "none")
        assert target.p95() == 1.0
        assert (target.ttft(300.0) or 0.0) == pytest.approx(1.0, rel=0.3)

    def test_only_a_call_that_is_no_retry_earns_one(self) -> None:
        target = health()
        while target.budget.spend(0.0):
            pass
        for _ in range(10):
            target.begin(0.0, retry=True)
        assert not target.budget.has(0.0)
        for _ in range(10):
            target.begin(0.0)
        assert target.budget.held == pytest.approx(2.0)

    def test_a_first_token_lets_the_next_probe_go(self) -> None:
        target = health()
        for _ in range(5):
            target.end(target.begin(0.0), 0.0, "failure")
        probe = target.begin(2.0)
        assert not target.breaker.admits(2.0)
        target.first_token(probe, 2.5)
        assert target.breaker.admits(2.5)

    @given(st.lists(st.sampled_from(["success", "failure", "limited", "none"]), max_size=40))
    def test_nothing_is_in_flight_when_all_has_ended(self, verdicts: list[Verdict]) -> None:
        target = health()
        trials = [target.begin(float(number)) for number, _ in enumerate(verdicts)]
        assert target.in_flight == len(verdicts)
        for trial, verdict in zip(trials, verdicts, strict=True):
            target.end(trial, 50.0, verdict)
        assert target.in_flight == 0


def test_people_see_the_whole_of_it() -> None:
    target = health()
    answer(target, 0.0, 0.5, tokens=30, completion_tokens=11)
    view = target.view(1.5)
    assert (view.state, view.retry_in, view.consecutive_failures, view.failure_rate) == ("closed", None, 0, 0.0)
    assert (view.in_flight, view.requests_last_minute, view.tokens_last_minute) == (0, 1, 30)
    assert view.ttft == pytest.approx(0.5, rel=0.01)
    assert view.per_token == pytest.approx(0.1)
    assert (view.ttft_p95, view.retries_left) == (None, 10.0)
    for _ in range(5):
        target.end(target.begin(2.0), 2.0, "failure")
    view = target.view(3.0)
    assert (view.state, view.consecutive_failures) == ("open", 5)
    assert view.retry_in == pytest.approx(15 / 8 - 1)
    assert target.view(60.0).retry_in == 0.0
