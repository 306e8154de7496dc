"""Who goes first among targets of equal priority: by simulation, each with the share that it should have."""

from __future__ import annotations

import random as randomness
from collections import Counter
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.routing.balance import (
    PROBE_SHARE,
    Balance,
    Candidate,
    ConsistentHash,
    Draw,
    LeastInFlight,
    LowestLatency,
    LowestUsage,
    Semantic,
    Weighted,
    balance_of,
)
from trio_ai_proxy.routing.health import Health
from trio_ai_proxy.settings import Balance as BalanceName
from trio_ai_proxy.settings import BreakerSettings, ModelSettings, SemanticSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

PICKS = 100_000


def candidates(*weights: int, descriptions: Sequence[str | None] = ()) -> list[Candidate]:
    return [
        Candidate(index, f"p/{index}", weight, Health(BreakerSettings()), descriptions[index] if descriptions else None)
        for index, weight in enumerate(weights)
    ]


def take(balance: Balance, group: Sequence[Candidate], draw: Draw) -> Candidate:
    chosen = balance.order(group, draw)[0]
    balance.took(chosen, group, draw)
    return chosen


def draw(now: float = 0.0, random: float = 0.5, hash_value: str | None = None) -> Draw:
    return Draw(now, random, hash_value)


class TestWeighted:
    def test_it_is_as_smooth_as_nginx(self) -> None:
        balance, group = Weighted(), candidates(5, 1, 1)
        assert [take(balance, group, draw()).index for _ in range(14)] == [0, 0, 1, 0, 2, 0, 0] * 2

    @pytest.mark.parametrize("weights", [(1, 1), (5, 3, 2), (1, 10, 100), (7,)])
    def test_the_shares_are_those_of_the_weights(self, weights: tuple[int, ...]) -> None:
        balance, group = Weighted(), candidates(*weights)
        taken = Counter(take(balance, group, draw()).index for _ in range(PICKS))
        for index, weight in enumerate(weights):
            assert taken[index] / PICKS == pytest.approx(weight / sum(weights), abs=0.0002)

    def test_a_target_that_is_away_gives_its_share_to_the_others_by_weight(self) -> None:
        balance, group = Weighted(), candidates(5, 3, 2)
        taken = Counter(take(balance, group[1:], draw()).index for _ in range(PICKS))
        assert taken[1] / PICKS == pytest.approx(0.6, abs=0.0002)

    def test_to_put_in_order_takes_nobody(self) -> None:
        balance, group = Weighted(), candidates(5, 1, 1)
        orders = [[one.index for one in balance.order(group, draw())] for _ in range(3)]
        assert orders == [[0, 1, 2]] * 3


class TestLeastInFlight:
    def test_the_fewest_for_its_weight_goes_first(self) -> None:
        balance, group = LeastInFlight(), candidates(1, 4)
        group[0].health.begin(0.0)
        for _ in range(3):
            group[1].health.begin(0.0)
        assert take(balance, group, draw()).index == 1

    def test_equals_take_turns_by_weight(self) -> None:
        balance, group = LeastInFlight(), candidates(1, 3)
        taken = Counter(take(balance, group, draw()).index for _ in range(PICKS))
        assert taken[1] / PICKS == pytest.approx(0.75, abs=0.02)

    def test_the_load_of_long_and_short_answers_is_even(self) -> None:
        """Answers of random length: nobody has more under way than its weight allows, though the arrivals are even."""
        balance, group, chance = LeastInFlight(), candidates(1, 2, 3), randomness.Random(1)
        running: list[tuple[float, Candidate, object]] = []
        held: Counter[int] = Counter()
        for number in range(20_000):
            now = number / 50
            for one in [one for one in running if one[0] <= now]:
                running.remove(one)
                one[1].health.end(one[2], now, "success")  # type: ignore[arg-type]
            chosen = take(balance, group, draw(now))
            running.append((now + chance.expovariate(1.0), chosen, chosen.health.begin(now)))
            for each in group:
                held[each.index] += each.health.in_flight
        total = sum(held.values())
        assert [held[index] / total for index in range(3)] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.02)


class TestLowestUsage:
    def test_the_fewest_tokens_for_its_weight_go_first(self) -> None:
        balance, group = LowestUsage(), candidates(1, 3)
        group[0].health.begin(0.0, tokens=100)
        group[1].health.begin(0.0, tokens=290)
        assert take(balance, group, draw()).index == 1
        group[1].health.begin(0.0, tokens=20)
        assert take(balance, group, draw()).index == 0
        assert take(balance, group, draw(now=120.0)).index in (0, 1)  # a minute later all is forgotten

    def test_the_tokens_are_shared_by_weight_whatever_the_lengths(self) -> None:
        balance, group, chance = LowestUsage(), candidates(1, 1, 2), randomness.Random(2)
        used: Counter[int] = Counter()
        for number in range(PICKS):
            now, tokens = number / 100, int(chance.paretovariate(1.5) * 100)
            chosen = take(balance, group, draw(now))
            trial = chosen.health.begin(now)
            chosen.health.end(trial, now, "success", tokens=tokens)
            used[chosen.index] += tokens
        total = sum(used.values())
        assert [used[index] / total for index in range(3)] == pytest.approx([0.25, 0.25, 0.5], abs=0.02)


class TestLowestLatency:
    def answer(self, one: Candidate, now: float, ttft: float) -> None:
        trial = one.health.begin(now)
        one.health.first_token(trial, now + ttft)
        one.health.end(trial, now + ttft, "success")

    def test_the_quickest_is_taken_but_for_a_small_share(self) -> None:
        balance, group, chance = LowestLatency(), candidates(1, 1, 1), randomness.Random(3)
        ttfts = (0.5, 2.0, 3.0)
        taken: Counter[int] = Counter()
        for number in range(20_000):
            now = number / 50
            chosen = take(balance, group, draw(now, chance.random()))
            self.answer(chosen, now, ttfts[chosen.index])
            taken[chosen.index] += 1
        assert taken[0] / 20_000 == pytest.approx(1 - PROBE_SHARE, abs=0.01)
        for slow in (1, 2):
            assert taken[slow] / 20_000 == pytest.approx(PROBE_SHARE / 2, abs=0.005)

    def test_a_target_that_was_slow_is_taken_again_when_it_has_recovered(self) -> None:
        balance, group, chance = LowestLatency(), candidates(1, 1), randomness.Random(4)
        shares = []
        for period in range(4):  # five minutes each: quick, slow, quick again
            taken: Counter[int] = Counter()
            for number in range(6_000):
                now = period * 300 + number / 20
                slow = period == 1
                chosen = take(balance, group, draw(now, chance.random()))
                self.answer(chosen, now, (5.0 if slow else 0.3) if chosen.index == 0 else 1.0)
                taken[chosen.index] += 1
            shares.append(taken[0] / 6_000)
        assert shares[0] > 0.9
        assert shares[1] < 0.1
        assert shares[3] > 0.9

    def test_the_pace_counts_as_well(self) -> None:
        balance, group = LowestLatency(), candidates(1, 1)
        for one, per_token in zip(group, (0.05, 0.01), strict=True):
            trial = one.health.begin(0.0)
            one.health.first_token(trial, 0.5 if one.index == 0 else 1.0)
            one.health.end(trial, trial.first_at + 100 * per_token, "success", completion_tokens=101)  # type: ignore[operator]
        assert take(balance, group, draw(10.0)).index == 1  # 1 s + 100 x 10 ms, against 0.5 s + 100 x 50 ms

    def test_an_unknown_target_is_tried_with_one_call(self) -> None:
        balance, group = LowestLatency(), candidates(1, 1)
        self.answer(group[0], 0.0, 0.5)
        assert take(balance, group, draw(1.0)).index == 1
        group[1].health.begin(1.0)
        assert take(balance, group, draw(1.0)).index == 0

    def test_where_nothing_is_known_all_begin_alike(self) -> None:
        balance, group = LowestLatency(), candidates(1, 1, 1)
        for _ in range(30):
            take(balance, group, draw()).health.begin(0.0)
        assert [one.health.in_flight for one in group] == [10, 10, 10]

    @pytest.mark.parametrize(("random", "first"), [(0.0, 1), (PROBE_SHARE / 2, 2), (PROBE_SHARE, 0), (0.999, 0)])
    def test_the_random_number_says_who_is_probed(self, random: float, first: int) -> None:
        group = candidates(1, 1, 1)
        for one, ttft in zip(group, (0.1, 0.2, 0.3), strict=True):
            self.answer(one, 0.0, ttft)
        order = LowestLatency().order(group, draw(1.0, random))
        assert order[0].index == first
        assert sorted(one.index for one in order) == [0, 1, 2]

    def test_alone_it_is_always_taken(self) -> None:
        assert take(LowestLatency(), candidates(1), draw(random=0.0)).index == 0


class TestConsistentHash:
    def shares(self, group: Sequence[Candidate]) -> dict[str, int]:
        balance = ConsistentHash()
        return {
            f"user-{number}": take(balance, group, draw(hash_value=f"user-{number}")).index for number in range(PICKS)
        }

    def test_the_shares_are_those_of_the_weights(self) -> None:
        taken = Counter(self.shares(candidates(5, 3, 2)).values())
        assert [taken[index] / PICKS for index in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.02)

    def test_a_target_that_goes_moves_only_its_own_values(self) -> None:
        group = candidates(1, 1, 1, 1)
        before, after = self.shares(group), self.shares([group[0], group[1], group[3]])
        moved = [value for value, index in before.items() if after[value] != index]
        assert all(before[value] == 2 for value in moved)
        assert len(moved) / PICKS == pytest.approx(0.25, abs=0.02)
        assert {after[value] for value in moved} == {0, 1, 3}

    def test_a_target_that_comes_takes_only_what_it_gets(self) -> None:
        group = candidates(1, 1, 1, 1)
        before, after = self.shares(group[:3]), self.shares(group)
        moved = [value for value, index in before.items() if after[value] != index]
        assert all(after[value] == 3 for value in moved)
        assert len(moved) / PICKS == pytest.approx(0.25, abs=0.02)

    def test_the_order_of_the_targets_in_the_file_does_not_matter(self) -> None:
        group = candidates(1, 1, 1)
        shuffled = [Candidate(new, group[old].name, 1, group[old].health) for new, old in enumerate((2, 0, 1))]
        for number in range(1000):
            value = draw(hash_value=str(number))
            assert take(ConsistentHash(), group, value).name == take(ConsistentHash(), shuffled, value).name

    def test_a_request_without_a_value_goes_anywhere_by_weight(self) -> None:
        group, chance, balance = candidates(3, 1), randomness.Random(5), ConsistentHash()
        taken = Counter(take(balance, group, draw(random=chance.random())).index for _ in range(PICKS))
        assert taken[0] / PICKS == pytest.approx(0.75, abs=0.02)

    @given(st.text(), st.integers(1, 6))
    def test_any_text_has_its_target(self, value: str, count: int) -> None:
        group = candidates(*[1] * count)
        first = take(ConsistentHash(), group, draw(hash_value=value))
        assert take(ConsistentHash(), group, draw(hash_value=value, random=0.1)) == first


class TestSemantic:
    GROUP = candidates(1, 1, 1, 1, descriptions=("code", "law", None, "poems"))

    def order(self, *similarities: float) -> list[int]:
        return [one.index for one in Semantic(0.5).order(self.GROUP, Draw(0.0, 0.5, None, similarities))]

    def test_the_nearest_description_goes_first_then_who_is_for_all_else(self) -> None:
        assert self.order(0.6, 0.9, 0.0, 0.2) == [1, 0, 2, 3]

    def test_who_is_for_all_else_goes_first_when_nothing_is_near(self) -> None:
        assert self.order(0.1, 0.4, 0.99, 0.2) == [2, 1, 3, 0]

    def test_without_similarities_they_take_turns_by_weight(self) -> None:
        balance, group = Semantic(), candidates(2, 1, 1, descriptions=("code", "law", None))
        assert [take(balance, group, draw()).index for _ in range(4)] == [0, 1, 2, 0]

    def test_its_threshold_is_the_models(self) -> None:
        strict = ModelSettings("m", balance="semantic", semantic=SemanticSettings("v", threshold=0.95))
        wish = Draw(0.0, 0.5, None, (0.6, 0.9, 0.0, 0.2))
        assert take(balance_of(strict), self.GROUP, wish).index == 2

    def test_it_remembers_nothing_of_who_was_near(self) -> None:
        balance, wish = Semantic(), Draw(0.0, 0.5, None, (0.6, 0.9, 0.0, 0.2))
        assert [take(balance, self.GROUP, wish).index for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("name", get_args(BalanceName))
def test_every_word_of_the_configuration_is_a_balance(name: BalanceName) -> None:
    balance, group = balance_of(ModelSettings("m", balance=name)), candidates(1, 2, 3)
    for number in range(50):
        wish = draw(float(number), number / 50)
        order = balance.order(group, wish)
        assert sorted(one.index for one in order) == [0, 1, 2]
        assert balance.order(group, wish) == order
        balance.took(order[0], group, wish)
