"""The breaker: its table of states, one cell after another, and a state machine that holds it to the rules in any order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_ai_proxy.errors import (
    InvalidRequest,
    Overloaded,
    ProxyError,
    TruncatedStream,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from trio_ai_proxy.routing.breaker import Admission, Breaker, Verdict, verdict_for
from trio_ai_proxy.settings import BreakerSettings

SETTINGS = BreakerSettings()  # 5 failures, 50 % within 30 s, at most 15 s
FIRST_PAUSE = 15 / 8


def call(breaker: Breaker, verdict: Verdict, now: float) -> Admission:
    admission = breaker.enter(now)
    breaker.settle(admission, verdict, now)
    return admission


def opened(now: float = 100.0) -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(5):
        call(breaker, "failure", now)
    assert breaker.state(now) == "open"
    return breaker


class TestClosed:
    def test_five_failures_one_after_another_open_it(self) -> None:
        breaker = Breaker(SETTINGS)
        for number in range(5):
            assert breaker.state(number) == "closed"
            assert breaker.admits(number)
            call(breaker, "failure", number)
        assert breaker.state(4.0) == "open"
        assert not breaker.admits(4.0)
        assert breaker.retry_at == 4.0 + FIRST_PAUSE

    def test_a_success_in_between_begins_the_count_anew(self) -> None:
        breaker = Breaker(SETTINGS)
        for verdict in ("failure",) * 4 + ("success",) + ("failure",) * 4:
            call(breaker, verdict, 0.0)
        assert (breaker.state(0.0), breaker.consecutive) == ("closed", 4)

    def test_half_of_the_calls_within_the_window_open_it(self) -> None:
        breaker = Breaker(SETTINGS)
        for verdict in ("success", "failure") * 4:
            call(breaker, verdict, 1.0)
        assert breaker.failure_rate(1.0) == 0.0  # eight calls say nothing
        call(breaker, "success", 2.0)
        assert breaker.state(2.0) == "closed"
        call(breaker, "failure", 2.0)
        assert breaker.state(2.0) == "open"

    def test_what_is_older_than_the_window_is_no_part_of_the_rate(self) -> None:
        breaker = Breaker(SETTINGS)
        for verdict in ("failure", "failure", "failure", "failure", "success"):
            call(breaker, verdict, 0.0)
        for _ in range(9):
            call(breaker, "success", 31.0)
        call(breaker, "failure", 31.0)
        assert breaker.failure_rate(31.0) == 0.1

    def test_rate_limits_count_for_the_rate_and_not_one_after_another(self) -> None:
        breaker = Breaker(SETTINGS)
        for _ in range(9):
            call(breaker, "limited", 0.0)
        assert (breaker.state(0.0), breaker.consecutive) == ("closed", 0)
        call(breaker, "limited", 0.0)
        assert breaker.state(0.0) == "open"

    def test_a_rate_limit_in_between_does_not_begin_the_count_anew(self) -> None:
        breaker = Breaker(SETTINGS)
        for verdict in ("failure", "failure", "limited", "failure", "failure", "failure"):
            call(breaker, verdict, 0.0)
        assert breaker.state(0.0) == "open"

    def test_calls_without_a_verdict_count_for_nothing(self) -> None:
        breaker = Breaker(SETTINGS)
        for verdict in ("failure", "none") * 4 + ("none",) * 50:
            call(breaker, verdict, 0.0)
        assert (breaker.state(0.0), breaker.consecutive, breaker.failure_rate(0.0)) == ("closed", 4, 0.0)


class TestOpen:
    def test_time_alone_makes_it_half_open(self) -> None:
        breaker = opened(100.0)
        assert breaker.state(100.0 + FIRST_PAUSE - 0.01) == "open"
        assert breaker.state(100.0 + FIRST_PAUSE) == "half_open"

    def test_a_call_past_it_closes_by_success(self) -> None:
        breaker = opened(100.0)
        assert call(breaker, "success", 100.5).is_forced
        assert (breaker.state(100.5), breaker.consecutive) == ("closed", 0)

    @pytest.mark.parametrize("verdict", ["failure", "limited", "none"])
    def test_a_call_past_it_that_fails_changes_nothing(self, verdict: Verdict) -> None:
        breaker = opened(100.0)
        call(breaker, verdict, 100.5)
        assert breaker.retry_at == 100.0 + FIRST_PAUSE
        assert breaker.state(100.5) == "open"

    @pytest.mark.parametrize("verdict", ["success", "failure", "limited"])
    def test_a_call_that_began_before_says_nothing(self, verdict: Verdict) -> None:
        breaker = Breaker(SETTINGS)
        early = breaker.enter(99.0)
        for _ in range(5):
            call(breaker, "failure", 100.0)
        breaker.settle(early, verdict, 101.0)
        assert (breaker.state(101.0), breaker.retry_at) == ("open", 100.0 + FIRST_PAUSE)


class TestHalfOpen:
    def test_one_probe_at_a_time(self) -> None:
        breaker = opened()
        probe = breaker.enter(102.0)
        assert probe.is_probe
        assert not breaker.admits(102.0)
        assert not breaker.enter(102.0).is_probe

    def test_a_success_of_the_probe_closes_and_the_past_is_forgotten(self) -> None:
        breaker = opened()
        call(breaker, "success", 102.0)
        assert (breaker.state(102.0), breaker.consecutive, breaker.failure_rate(102.0)) == ("closed", 0, 0.0)

    @pytest.mark.parametrize("verdict", ["failure", "limited"])
    def test_a_failure_of_the_probe_opens_for_twice_as_long_up_to_the_limit(self, verdict: Verdict) -> None:
        breaker, now, pauses = opened(), 100.0, []
        for _ in range(6):
            pauses.append(breaker.retry_at - now)
            now = breaker.retry_at
            assert breaker.admits(now)
            call(breaker, verdict, now)
        assert pauses == pytest.approx([15 / 8, 15 / 4, 15 / 2, 15, 15, 15])

    def test_a_probe_without_a_verdict_is_given_back(self) -> None:
        breaker = opened()
        probe = breaker.enter(102.0)
        breaker.settle(probe, "none", 103.0)
        assert breaker.state(103.0) == "half_open"
        assert breaker.enter(103.0).is_probe

    def test_a_probe_that_shows_a_token_makes_room_and_still_proves(self) -> None:
        breaker = opened()
        probe = breaker.enter(102.0)
        breaker.progress(probe)
        assert breaker.state(102.0) == "half_open"
        second = breaker.enter(102.0)
        assert second.is_probe
        breaker.progress(probe)  # is not the second's to give back
        assert not breaker.admits(102.0)
        breaker.settle(probe, "success", 110.0)
        assert breaker.state(110.0) == "closed"
        breaker.settle(second, "failure", 111.0)
        assert (breaker.state(111.0), breaker.consecutive) == ("closed", 0)

    def test_a_probe_that_shows_a_token_and_is_cut_opens_again(self) -> None:
        breaker = opened()
        probe = breaker.enter(102.0)
        breaker.progress(probe)
        breaker.settle(probe, "failure", 105.0)
        assert (breaker.state(105.0), breaker.retry_at) == ("open", 105.0 + 2 * FIRST_PAUSE)

    def test_settling_twice_changes_nothing(self) -> None:
        breaker = opened()
        probe = breaker.enter(102.0)
        breaker.settle(probe, "none", 103.0)
        next_probe = breaker.enter(103.0)
        breaker.settle(probe, "success", 104.0)
        assert breaker.state(104.0) == "half_open"
        assert not breaker.admits(104.0)
        breaker.settle(next_probe, "success", 104.0)
        assert breaker.state(104.0) == "closed"


class TestAfterwards:
    def test_who_fails_again_at_once_waits_on_where_it_was(self) -> None:
        breaker = opened(100.0)
        call(breaker, "success", 102.0)
        for _ in range(5):
            call(breaker, "failure", 110.0)
        assert breaker.retry_at == 110.0 + 2 * FIRST_PAUSE

    def test_who_was_well_for_a_window_begins_anew(self) -> None:
        breaker = opened(100.0)
        call(breaker, "success", 102.0)
        for _ in range(5):
            call(breaker, "failure", 132.0)
        assert breaker.retry_at == 132.0 + FIRST_PAUSE

    def test_a_target_that_was_down_for_a_minute_is_back_within_the_longest_pause(self) -> None:
        """A request every four seconds, each tried twice while it fails: the flapping provider of Failover Bench."""
        breaker, served_at = Breaker(SETTINGS), None
        for now in (4.0 * number for number in range(20)):
            for _ in range(2):
                if breaker.admits(now):
                    call(breaker, "success" if now >= 60 else "failure", now)
            if breaker.state(now) == "closed" and now >= 60:
                served_at = now
                break
        assert served_at is not None
        assert served_at - 60 <= 16


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, "success"),
        (UpstreamRefused("No."), "failure"),
        (UpstreamTimeout("connect", 1, "No."), "failure"),
        (UpstreamTimeout("first_token", 1, "No."), "failure"),
        (UpstreamTimeout("idle", 1, "No."), "failure"),
        (UpstreamTimeout("total", 1, "No."), "none"),
        (TruncatedStream("Cut."), "failure"),
        (UpstreamProtocolError("A page."), "failure"),
        (UpstreamError("In a 200."), "failure"),
        (InvalidRequest("No word for it."), "none"),
        (Overloaded("No slot."), "none"),
        *(
            (UpstreamStatus("x", upstream_status=status), "failure")
            for status in (408, 424, 500, 501, 502, 503, 504, 529)
        ),
        *((UpstreamStatus("x", upstream_status=status), "none") for status in (400, 404, 409, 413, 422, 425)),
        *((UpstreamStatus("x", upstream_status=status), "limited") for status in (401, 402, 403, 429)),
        (UpstreamStatus("x", upstream_status=400, code="context_length_exceeded"), "none"),
        (UpstreamStatus("x", upstream_status=400, code="content_filter"), "none"),
        (UpstreamStatus("Request too large for m on tokens per min (TPM)", upstream_status=429), "none"),
    ],
)
def test_what_an_end_says_of_its_target(error: ProxyError | None, verdict: Verdict) -> None:
    assert verdict_for(error) == verdict


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_clients_own_credential_says_nothing_of_the_target(status: int) -> None:
    assert verdict_for(UpstreamStatus("x", upstream_status=status), own_key=False) == "none"


class AnyOrder(RuleBasedStateMachine):
    """Calls begin, show tokens and end in any order, and time goes on."""

    @initialize(
        failures=st.integers(1, 6),
        rate=st.floats(0.1, 1.0),
        window=st.floats(1, 60),
        open=st.floats(0.5, 60),
    )
    def begin(self, failures: int, rate: float, window: float, open: float) -> None:
        self.settings = BreakerSettings(failures=failures, rate=rate, window=window, open=open)
        self.breaker = Breaker(self.settings)
        self.now = 1000.0
        self.running: list[Admission] = []
        self.shown: set[Admission] = set()

    @rule(seconds=st.floats(0, 30))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_begins(self) -> None:
        state, admits = self.breaker.state(self.now), self.breaker.admits(self.now)
        admission = self.breaker.enter(self.now)
        assert admission.is_probe == (state == "half_open" and admits)
        assert admission.is_forced == (not admits)
        self.running.append(admission)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def a_token_is_shown(self, data: st.DataObject) -> None:
        admission = data.draw(st.sampled_from(self.running))
        self.breaker.progress(admission)
        self.shown.add(admission)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), verdict=st.sampled_from(["success", "failure", "limited", "none"]))
    def a_call_ends(self, data: st.DataObject, verdict: Verdict) -> None:
        admission = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        before, retry_at = self.breaker.state(self.now), self.breaker.retry_at
        self.breaker.settle(admission, verdict, self.now)
        after = self.breaker.state(self.now)
        if verdict == "none":
            assert (after, self.breaker.retry_at) == (before, retry_at)
        if before != "closed" and after == "closed":
            assert verdict == "success"
        if before == "closed" and after != "closed":
            assert verdict in ("failure", "limited")
            assert not admission.is_probe
        if before != "closed" and self.breaker.retry_at != retry_at:
            assert admission.is_probe
            assert verdict in ("failure", "limited")

    @invariant()
    def who_is_shut_out_waits_for_a_probe_that_is_under_way(self) -> None:
        if (
            hasattr(self, "breaker")
            and self.breaker.state(self.now) == "half_open"
            and not self.breaker.admits(self.now)
        ):
            silent = [one for one in self.running if one.is_probe and one not in self.shown]
            assert len(silent) >= 1

    @invariant()
    def it_is_never_shut_for_longer_than_the_limit(self) -> None:
        if hasattr(self, "breaker") and self.breaker.state(self.now) == "open":
            assert self.breaker.retry_at - self.now <= self.settings.open * 1.000001

    @invariant()
    def nobody_is_shut_out_when_nothing_runs(self) -> None:
        """A probe is never lost: with no call under way, a half-open breaker takes one."""
        if hasattr(self, "breaker") and not self.running and self.breaker.state(self.now) != "open":
            assert self.breaker.admits(self.now)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
