"""Which target a request goes to, and which next."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.routing.facts import Facts, TargetFacts
from trio_ai_proxy.routing.health import Health
from trio_ai_proxy.routing.router import Choice, Router
from trio_ai_proxy.settings import BreakerSettings, MatchSettings, ModelSettings, TargetSettings

if TYPE_CHECKING:
    from trio_ai_proxy.routing.steps import Step

NOTHING: dict[int, Step] = {}


class Setup:
    """A model with targets, each given by what is not the default about it."""

    def __init__(self, *targets: dict[str, Any], **model: Any) -> None:
        settings = tuple(
            TargetSettings(
                provider="p",
                model=str(index),
                priority=target.get("priority", 0),
                weight=target.get("weight", 1),
                match=target.get("match"),
                description=target.get("description"),
            )
            for index, target in enumerate(targets)
        )
        self.healths = [Health(BreakerSettings()) for _ in targets]
        self.router = Router(
            ModelSettings("m", targets=settings, **model),
            self.healths,
            [
                TargetFacts(
                    operations=frozenset(target.get("operations", {"chat", "completions"})),
                    lacks=frozenset(target.get("lacks", ())),
                    ruled_out=frozenset(target.get("ruled_out", ())),
                    max_context=target.get("window"),
                )
                for target in targets
            ],
        )

    def choose(
        self, facts: Facts | None = None, tried: dict[int, Step] | None = None, now: float = 0.0, random: float = 0.5
    ) -> Choice | None:
        return self.router.choose(facts or Facts(), tried or NOTHING, now, random)

    def index(
        self, facts: Facts | None = None, tried: dict[int, Step] | None = None, now: float = 0.0, random: float = 0.5
    ) -> int | None:
        choice = self.choose(facts, tried, now, random)
        return None if choice is None else choice.index

    def fail(self, index: int, now: float = 0.0, times: int = 5) -> None:
        for _ in range(times):
            self.healths[index].end(self.healths[index].begin(now), now, "failure")


class TestPriority:
    def test_the_lowest_number_goes_first_and_says_why(self) -> None:
        choice = Setup({"priority": 1}, {"priority": 0}).choose()
        assert choice == Choice(1, ("priority 0",))

    def test_within_a_group_the_balance_decides(self) -> None:
        setup = Setup({"weight": 3}, {"weight": 1}, {"priority": 1, "weight": 1000})
        taken = Counter(setup.index() for _ in range(100_000))
        assert taken == {0: 75_000, 1: 25_000}
        choice = setup.choose()
        assert choice is not None
        assert choice.reasons == ("priority 0", "weighted")

    def test_each_group_has_turns_of_its_own(self) -> None:
        setup = Setup({}, {}, {"priority": 1}, {"priority": 1})
        away: dict[int, Step] = {0: "next", 1: "next"}
        assert [setup.index() for _ in range(4)] == [0, 1, 0, 1]
        assert [setup.index(tried=away) for _ in range(4)] == [2, 3, 2, 3]

    def test_the_next_group_comes_when_the_first_is_away(self) -> None:
        setup = Setup({}, {"priority": 1}, {"priority": 2})
        setup.fail(0)
        assert setup.index() == 1
        setup.fail(1)
        assert setup.index() == 2


class TestCapability:
    IMAGES = Facts(images=True)

    @pytest.mark.parametrize("need", ["tools", "images", "json_schema"])
    def test_a_request_never_goes_to_a_target_without_what_it_needs(self, need: str) -> None:
        setup = Setup({"lacks": {need}}, {"priority": 9}, {"lacks": {need}})
        facts = Facts(tools=need == "tools", images=need == "images", json_schema=need == "json_schema")
        assert {setup.index(facts) for _ in range(10)} == {1}
        assert setup.index(facts, {1: "next"}) is None
        assert {setup.index() for _ in range(10)} == {0, 2}

    def test_embeddings_go_to_who_makes_them(self) -> None:
        setup = Setup({}, {"operations": {"embeddings"}, "priority": 1})
        assert setup.index(Facts(operation="embeddings")) == 1

    def test_where_only_the_kind_says_no_the_provider_may_say_so_itself(self) -> None:
        setup = Setup({"lacks": {"images"}})
        assert setup.index(self.IMAGES) == 0
        assert setup.router.refusal(self.IMAGES) is None

    def test_where_the_configuration_says_no_the_request_is_refused(self) -> None:
        setup = Setup(
            {"lacks": {"images"}, "ruled_out": {"images"}}, {"lacks": {"images", "tools"}, "ruled_out": {"images"}}
        )
        assert setup.choose(self.IMAGES) is None
        refusal = setup.router.refusal(Facts(images=True, tools=True))
        assert refusal is not None
        assert (refusal.status, refusal.code) == (400, "unsupported_parameter")
        assert refusal.message == "No target of the model `m` can do what this request needs: images, tools."


class TestMatch:
    def test_a_header_and_a_key_pick_the_targets(self) -> None:
        gold = MatchSettings(headers={"X-Tier": "gold*"}, keys=("team-*", "boss"))
        setup = Setup({"match": gold}, {"priority": 1})
        assert setup.index(Facts(key="team-a", headers={"x-tier": "golden"})) == 0
        for others in (
            Facts(),
            Facts(key="team-a"),
            Facts(headers={"x-tier": "gold"}),
            Facts(key="other", headers={"x-tier": "gold"}),
            Facts(key="team-a", headers={"x-tier": "silver"}),
        ):
            assert setup.index(others) == 1

    def test_a_request_that_is_meant_for_nobody_is_refused(self) -> None:
        setup = Setup({"match": MatchSettings(keys=("boss",))})
        assert setup.choose() is None
        refusal = setup.router.refusal(Facts())
        assert refusal is not None
        assert (refusal.code, refusal.message) == ("no_target", "No target of the model `m` is meant for this request.")
        assert setup.router.refusal(Facts(key="boss")) is None


class TestContext:
    def test_a_request_goes_where_it_fits(self) -> None:
        setup = Setup({"window": 8_000}, {"window": 128_000, "priority": 1})
        assert [setup.index(Facts(tokens=tokens)) for tokens in (0, 8_000, 8_001, 128_000)] == [0, 0, 1, 1]

    def test_a_window_that_nobody_knows_may_be_large_enough(self) -> None:
        assert Setup({"window": 8_000}, {"priority": 1}).index(Facts(tokens=9_000)) == 1

    def test_what_seems_to_fit_nowhere_goes_to_the_largest(self) -> None:
        setup = Setup({"window": 8_000}, {"window": 128_000}, {"window": 32_000})
        assert setup.index(Facts(tokens=200_000)) == 1
        assert setup.index(Facts(tokens=200_000), {1: "next"}) is None

    def test_after_too_long_only_a_larger_window_is_asked(self) -> None:
        setup = Setup({"window": 8_000}, {"window": 8_000}, {}, {"window": 32_000}, {"window": 128_000, "priority": 1})
        assert setup.index(Facts(tokens=100), {0: "larger"}) == 3
        assert setup.index(Facts(tokens=100), {0: "larger", 3: "larger"}) == 4
        assert setup.index(Facts(tokens=100), {0: "larger", 3: "larger", 4: "larger"}) is None
        assert setup.index(Facts(tokens=40_000), {0: "larger"}) == 4

    def test_of_a_window_that_nobody_knows_every_known_one_may_be_larger(self) -> None:
        setup = Setup({}, {}, {"window": 8_000})
        assert setup.index(Facts(tokens=100), {0: "larger"}) == 2
        assert setup.index(Facts(tokens=9_000), {0: "larger"}) is None


class TestTried:
    @pytest.mark.parametrize("step", ["next", "larger"])
    def test_a_target_that_was_tried_in_vain_is_not_asked_again(self, step: Step) -> None:
        assert Setup({}).choose(tried={0: step}) is None

    def test_stop_is_the_end_of_it(self) -> None:
        assert Setup({}, {}).choose(tried={0: "stop"}) is None

    def test_a_target_with_another_credential_is_as_good_as_new(self) -> None:
        assert Setup({}, {"priority": 1}).choose(tried={0: "key"}) == Choice(0, ("priority 0",))

    def test_a_target_that_may_be_tried_again_comes_after_the_untried(self) -> None:
        setup = Setup({}, {"priority": 1})
        assert setup.choose(tried={0: "again"}) == Choice(1, ("priority 1",))
        assert setup.choose(tried={0: "again", 1: "next"}) == Choice(0, ("priority 0",), again=True)

    def test_but_before_one_that_is_certainly_down(self) -> None:
        setup = Setup({}, {"priority": 1})
        setup.fail(1)
        assert setup.choose(tried={0: "again"}) == Choice(0, ("priority 0",), again=True)


class TestBreaker:
    def test_if_all_are_open_the_least_bad_is_tried(self) -> None:
        setup = Setup({}, {}, {"priority": 1})
        setup.fail(0, now=2.0)
        setup.fail(1, now=1.0)
        setup.fail(2, now=3.0)
        choice = setup.choose(now=2.5)
        assert choice is not None
        assert (choice.index, choice.forced) == (1, True)
        assert setup.choose(tried={1: "next"}, now=2.5) == Choice(
            0, ("every breaker is open: the least bad",), forced=True
        )
        assert setup.choose(tried={0: "next", 1: "next", 2: "again"}, now=3.0) == Choice(
            2, ("every breaker is open: the least bad",), forced=True, again=True
        )

    def test_a_single_target_is_tried_whatever_its_breaker_says(self) -> None:
        setup = Setup({})
        setup.fail(0)
        choice = setup.choose()
        assert choice is not None
        assert choice.forced

    def test_one_request_at_a_time_is_the_probe(self) -> None:
        setup = Setup({}, {"priority": 1})
        setup.fail(0)
        assert setup.index(now=1.0) == 1
        assert setup.index(now=2.0) == 0
        trial = setup.healths[0].begin(2.0)
        assert setup.index(now=2.0) == 1
        setup.healths[0].end(trial, 2.5, "none")
        assert setup.index(now=2.5) == 0
        setup.healths[0].end(setup.healths[0].begin(2.5), 3.0, "success")
        assert [setup.index(now=3.0) for _ in range(3)] == [0, 0, 0]


def test_a_hash_keeps_a_conversation_together_and_moves_it_only_while_its_target_is_down() -> None:
    setup = Setup({}, {}, {}, balance="consistent_hash", hash_on="prefix")
    facts = Facts(hash_value="conversation")
    home = setup.index(facts)
    assert home is not None
    assert {setup.index(facts, random=number / 50) for number in range(50)} == {home}
    setup.fail(home)
    away = setup.index(facts)
    assert away not in (home, None)
    setup.healths[home].end(setup.healths[home].begin(10.0), 11.0, "success")
    assert setup.index(facts, now=11.0) == home


def test_similarities_pick_the_target() -> None:
    setup = Setup({"description": "code"}, {"description": "law"}, {}, balance="semantic")
    assert setup.index(Facts(similarities=(0.2, 0.8, 0.0))) == 1
    assert setup.index(Facts(similarities=(0.2, 0.3, 0.0))) == 2


class TestExplain:
    def test_it_says_of_every_target_when_it_would_be_asked_and_why(self) -> None:
        setup = Setup(
            {"priority": 1},
            {"weight": 2},
            {"lacks": {"tools"}, "window": 50, "match": MatchSettings(headers={"x-a": "1"}, keys=("k",))},
            {},
            {"priority": 2},
            {"window": 50},
        )
        setup.fail(0, now=1.0)
        setup.fail(3, now=8.0)
        lines = setup.router.explain(Facts(tools=True, tokens=100), 8.5)
        assert [(line.order, line.name, line.why) for line in lines] == [
            (1, "p/1", ("priority 0", "weighted, weight 2")),
            (2, "p/0", ("priority 1", "weighted, weight 1", "breaker half open: one call at a time")),
            (3, "p/4", ("priority 2", "weighted, weight 1")),
            (4, "p/3", ("priority 0", "weighted, weight 1", "breaker open for 1.4 s more")),
            (
                None,
                "p/2",
                (
                    "only for header x-a: 1",
                    "only for keys k",
                    "no tools",
                    "window of 50 tokens, and this needs about 100",
                ),
            ),
            (None, "p/5", ("window of 50 tokens, and this needs about 100",)),
        ]
        setup.healths[0].begin(8.5)
        busy = next(line for line in setup.router.explain(Facts(), 8.5) if line.index == 0)
        assert busy.why[-1] == "breaker: being probed"

    def test_it_changes_nothing(self) -> None:
        setup = Setup({"weight": 5}, {}, {})
        seen = []
        for _ in range(7):
            setup.router.explain(Facts(), 0.0)
            seen.append(setup.index())
        assert seen == [0, 0, 1, 0, 2, 0, 0]

    def test_two_targets_of_one_name_are_told_apart(self) -> None:
        target = TargetSettings("p", "m")
        healths = [Health(BreakerSettings()) for _ in range(3)]
        router = Router(ModelSettings("m", targets=(target,) * 3), healths, [TargetFacts()] * 3)
        assert [line.name for line in router.explain(Facts(), 0.0)] == ["p/m", "p/m#2", "p/m#3"]


@given(
    targets=st.lists(
        st.fixed_dictionaries(
            {
                "priority": st.integers(0, 2),
                "weight": st.integers(1, 5),
                "window": st.none() | st.integers(1, 1000),
                "lacks": st.sets(st.sampled_from(["tools", "images"])),
            }
        ),
        min_size=1,
        max_size=5,
    ),
    down=st.sets(st.integers(0, 4)),
    facts=st.builds(Facts, tools=st.booleans(), images=st.booleans(), tokens=st.integers(0, 2000)),
    balance=st.sampled_from(["weighted", "least_in_flight", "lowest_latency", "lowest_usage", "consistent_hash"]),
    random=st.floats(0, 1, exclude_max=True),
)
def test_every_request_is_tried_until_nothing_is_left_and_never_twice(
    targets: list[dict[str, Any]], down: set[int], facts: Facts, balance: str, random: float
) -> None:
    setup = Setup(*targets, balance=balance, hash_on="key")
    for index in down & set(range(len(targets))):
        setup.fail(index)
    explained = [line.index for line in setup.router.explain(facts, 0.5) if line.order is not None]
    tried: dict[int, Step] = {}
    while (choice := setup.choose(facts, tried, now=0.5, random=random)) is not None:
        assert choice.index not in tried
        assert choice.forced == (not setup.healths[choice.index].breaker.admits(0.5))
        tried[choice.index] = "next"
    assert tried  # somebody is always asked: nothing is ruled out here
    assert set(tried) == set(explained)
