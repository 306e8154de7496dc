"""The ring of one provider's credentials: its table of states, the shares it deals out, and the rules it keeps in any order."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_ai_proxy.routing.credentials import (
    FIRST_PROBE,
    FIRST_REST,
    LONGEST_PROBE,
    LONGEST_REST,
    LONGEST_TOLD_REST,
    CredentialView,
    Ring,
    Turn,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

STATES = ("usable", "resting", "out")
WORDS = ("answered", "limited", "refused")
# (state before, what the call says) → state after
TABLE = {
    ("usable", "answered"): "usable",
    ("usable", "limited"): "resting",
    ("usable", "refused"): "out",
    ("resting", "answered"): "usable",
    ("resting", "limited"): "resting",
    ("resting", "refused"): "out",
    ("out", "answered"): "usable",
    ("out", "limited"): "out",
    ("out", "refused"): "out",
}


def say(ring: Ring, word: str, turn: Turn, now: float, retry_after: float | None = None) -> bool:
    if word == "limited":
        ring.limited(turn, retry_after, now)
        return False
    return ring.answered(turn, now) if word == "answered" else ring.refused(turn, "401", now)


def states(ring: Ring, now: float) -> list[str]:
    return [one.state for one in ring.view(now)]


def bring(ring: Ring, state: str, now: float) -> None:
    """The only credential of `ring` comes into `state`."""
    if state != "usable":
        say(ring, "limited" if state == "resting" else "refused", ring.take(now), now)
    assert states(ring, now) == [state]


class TestTable:
    @pytest.mark.parametrize("word", WORDS)
    @pytest.mark.parametrize("state", STATES)
    def test_every_cell(self, state: str, word: str) -> None:
        ring = Ring(1)
        bring(ring, state, 0.0)
        is_news = say(ring, word, ring.take(1.0), 1.0)
        assert states(ring, 1.0) == [TABLE[state, word]]
        assert is_news == ((state == "out") != (TABLE[state, word] == "out"))

    @pytest.mark.parametrize("word", WORDS)
    @pytest.mark.parametrize("state", ["resting", "out"])
    def test_what_an_older_call_says_changes_no_state_but_for_a_refusal(self, state: str, word: str) -> None:
        ring = Ring(1)
        old = ring.take(0.0)
        bring(ring, state, 0.0)
        say(ring, word, old, 1.0)
        assert states(ring, 1.0) == ["out" if word == "refused" else state]

    def test_a_refusal_from_before_it_came_back_is_old(self) -> None:
        ring = Ring(1)
        old = ring.take(0.0)
        bring(ring, "out", 0.0)
        assert ring.answered(ring.take(1.0), 1.0)
        assert not ring.refused(old, "401", 2.0)
        assert states(ring, 2.0) == ["usable"]

    def test_many_that_are_told_at_once_are_one_rest_and_one_piece_of_news(self) -> None:
        ring = Ring(1)
        turns = [ring.take(0.0) for _ in range(9)]
        for turn in turns:
            ring.limited(turn, None, 0.0)
        assert ring.view(0.0)[0].ready_in == FIRST_REST
        assert [ring.refused(turn, "402", 0.0) for turn in turns] == [True] + [False] * 8


class TestRest:
    def test_grows_until_an_answer(self) -> None:
        ring, now, rests = Ring(1), 0.0, []
        for _ in range(6):
            ring.limited(ring.take(now), None, now)
            rests.append(ring.view(now)[0].ready_in)
            now += LONGEST_REST
        assert rests == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
        ring.answered(ring.take(now), now)
        ring.limited(ring.take(now), None, now)
        assert ring.view(now)[0].ready_in == FIRST_REST

    @pytest.mark.parametrize(("told", "rest"), [(2.0, 2.0), (90.0, 90.0), (86_400.0, LONGEST_TOLD_REST), (0.0, 5.0)])
    def test_is_what_the_provider_asks_for(self, told: float, rest: float) -> None:
        ring = Ring(1)
        ring.limited(ring.take(0.0), told, 0.0)
        assert ring.view(0.0)[0].ready_in == rest

    def test_a_longer_wish_of_another_call_holds_and_a_shorter_does_not(self) -> None:
        ring = Ring(1)
        turns = [ring.take(0.0) for _ in range(3)]
        for turn, told in zip(turns, (10.0, 30.0, 5.0), strict=True):
            ring.limited(turn, told, 0.0)
        assert ring.view(0.0)[0].ready_in == 30.0

    def test_ends_by_time(self) -> None:
        ring = Ring(1)
        ring.limited(ring.take(0.0), 7.0, 0.0)
        assert (states(ring, 6.9), states(ring, 7.0)) == (["resting"], ["usable"])

    def test_what_is_left_is_told_only_where_the_provider_said_it_and_nobody_is_usable(self) -> None:
        ring = Ring(2)
        assert ring.told_rest(0.0) is None
        first, second = ring.take(0.0), ring.take(0.0)
        ring.limited(first, 9.0, 0.0)
        assert ring.told_rest(0.0) is None
        ring.limited(second, 4.0, 0.0)
        assert ring.told_rest(1.0) == 3.0
        ring = Ring(1)
        ring.limited(ring.take(0.0), None, 0.0)
        assert ring.told_rest(0.0) is None


class TestOut:
    def test_probes_come_in_growing_pauses(self) -> None:
        ring = Ring(2)
        ring.refused(ring.take(0.0), "401", 0.0)
        probes, now = [], 0.0
        while len(probes) < 6:
            ready_in = ring.view(now)[0].ready_in
            assert ready_in is not None
            assert ring.take(now + ready_in - 1).index == 1
            now += ready_in
            turn = ring.take(now)
            assert turn.index == 0
            ring.refused(turn, "401", now)
            probes.append(now)
        pauses = [after - before for before, after in zip([0.0, *probes], probes, strict=False)]
        assert pauses == [300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]
        assert (pauses[0], pauses[-1]) == (FIRST_PROBE, LONGEST_PROBE)

    def test_one_probe_at_a_time_also_where_it_says_nothing(self) -> None:
        ring = Ring(2)
        ring.refused(ring.take(0.0), "401", 0.0)
        assert [ring.take(300.0).index for _ in range(4)] == [0, 1, 1, 1]
        assert [ring.take(600.0).index for _ in range(2)] == [0, 1]

    def test_that_answers_a_probe_takes_turns_again_and_has_forgotten(self) -> None:
        ring = Ring(2)
        ring.refused(ring.take(0.0), "402", 0.0)
        assert ring.view(60.0)[0] == CredentialView("out", 240.0, 60.0, "402")
        assert ring.answered(ring.take(300.0), 300.0)
        assert ring.view(300.0)[0] == CredentialView("usable", None, None, None)
        turns = {turn.index: turn for turn in (ring.take(300.0), ring.take(300.0))}
        assert set(turns) == {0, 1}
        ring.refused(turns[0], "401", 300.0)
        assert ring.view(300.0)[0].ready_in == FIRST_PROBE

    def test_all_are_tried_in_turn_beginning_with_the_one_that_failed_longest_ago(self) -> None:
        ring = Ring(3)
        for index in range(3):
            turn = ring.take(0.0)
            assert turn.index == index
            ring.refused(turn, "401", 0.0)
        asked = []
        for _ in range(6):
            turn = ring.take(1.0)
            asked.append(turn.index)
            ring.refused(turn, "401", 1.0)
        assert asked == [0, 1, 2, 0, 1, 2]
        assert [one.ready_in for one in ring.view(1.0)] == [299.0] * 3  # these were no probes

    def test_who_only_rests_goes_first(self) -> None:
        ring = Ring(2)
        ring.refused(ring.take(0.0), "401", 0.0)
        ring.limited(ring.take(0.0), None, 0.0)
        assert [ring.take(1.0).index for _ in range(3)] == [1, 1, 1]


class TestAnother:
    def test_only_a_usable_one_that_has_not_been_tried(self) -> None:
        ring = Ring(4)
        turns = [ring.take(0.0) for _ in range(4)]
        ring.limited(turns[1], 9.0, 0.0)
        ring.refused(turns[2], "401", 0.0)
        found = ring.take_usable(0.0, {0})
        assert found is not None
        assert found.index == 3
        assert ring.take_usable(0.0, {0, 3}) is None
        assert (ring.usable(0.0), ring.is_resting(0.0)) == (2, True)


class TestShares:
    @pytest.mark.parametrize("count", [2, 3, 7])
    def test_are_even(self, count: int) -> None:
        ring = Ring(count)
        assert set(Counter(ring.take(0.0).index for _ in range(count * 100)).values()) == {100}

    def test_are_even_among_those_that_are_left_and_after_a_rest_among_all(self) -> None:
        ring = Ring(3)
        ring.limited(ring.take(0.0), 10.0, 0.0)
        assert Counter(ring.take(5.0).index for _ in range(100)) == {1: 50, 2: 50}
        shares = Counter(ring.take(10.0).index for _ in range(300))
        assert max(shares.values()) - min(shares.values()) <= 1

    def test_a_thousand_requests_a_minute_at_three_accounts_of_four_hundred(self) -> None:
        """Each account takes 400 calls in a minute of the clock, and asks for a rest until its end: together they serve all that
        they can, and no call of a usable account is lost to one that rests."""
        ring, served, refused = Ring(3), Counter[int](), 0
        for second in range(60):
            for _ in range(25):
                turn = ring.take(float(second))
                if served[turn.index] >= 400:
                    refused += 1
                    ring.limited(turn, 60.0 - second, float(second))
                else:
                    served[turn.index] += 1
                    ring.answered(turn, float(second))
        assert set(served.values()) == {400}
        assert refused == 60 * 25 - 1200


class Rules(RuleBasedStateMachine):
    """Any order of calls, of what they say and of time passing."""

    @initialize(count=st.integers(1, 5))
    def begin(self, count: int) -> None:
        self.ring = Ring(count)
        self.now = 0.0
        self.open: list[Turn] = []

    def _views(self) -> Sequence[CredentialView]:
        return self.ring.view(self.now)

    @rule()
    def take(self) -> None:
        before = self._views()
        turn = self.ring.take(self.now)
        chosen = before[turn.index]
        is_probe = chosen.state == "out" and chosen.ready_in == 0.0
        if any(one.state == "usable" for one in before):
            assert chosen.state == "usable" or is_probe
        elif any(one.state == "resting" for one in before):
            soonest = min(one.ready_in for one in before if one.state == "resting" and one.ready_in is not None)
            assert is_probe or (chosen.state, chosen.ready_in) == ("resting", soonest)
        if is_probe:
            assert self._views()[turn.index].ready_in != 0.0
        self.open.append(turn)

    @rule(data=st.data())
    def take_another(self, data: st.DataObject) -> None:
        before = self._views()
        tried = data.draw(st.sets(st.integers(0, len(before) - 1)))
        free = {place for place, one in enumerate(before) if one.state == "usable"} - tried
        turn = self.ring.take_usable(self.now, tried)
        assert (turn is not None) == bool(free)
        if turn is not None:
            assert turn.index in free
            self.open.append(turn)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), word=st.sampled_from(WORDS), retry_after=st.sampled_from([None, 0.0, 1.0, 30.0, 1e6]))
    def end(self, data: st.DataObject, word: str, retry_after: float | None) -> None:
        turn = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        views = list(self._views())
        before = views[turn.index]
        is_news = say(self.ring, word, turn, self.now, retry_after)
        after = self._views()[turn.index]
        assert is_news == ((before.state == "out") != (after.state == "out"))
        if word == "limited":
            assert after.state in (before.state, "resting")
        assert [*views[: turn.index], *views[turn.index + 1 :]] == [
            view for place, view in enumerate(self._views()) if place != turn.index
        ]

    @rule(seconds=st.sampled_from([0.125, 5.0, 61.0, 300.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def times_are_within_bounds(self) -> None:
        views: Any = self._views()
        for one in views:
            if one.state == "usable":
                assert (one.ready_in, one.out_for, one.reason) == (None, None, None)
            elif one.state == "resting":
                assert 0.0 < one.ready_in <= LONGEST_TOLD_REST
            else:
                assert 0.0 <= one.ready_in <= LONGEST_PROBE
                assert one.out_for >= 0.0
                assert one.reason is not None
        assert self.ring.usable(self.now) == sum(one.state == "usable" for one in views)


TestRules = Rules.TestCase
TestRules.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
