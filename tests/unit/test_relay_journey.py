"""One exchange's way from target to target: where it goes after which failure, and what is booked on the way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from trio_ai_proxy.accounting.meter import Meter
from trio_ai_proxy.chat.events import TextDelta, UsageReported
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import (
    InvalidRequest,
    Overloaded,
    ProxyError,
    TruncatedStream,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from trio_ai_proxy.relay.journey import Journey
from trio_ai_proxy.relay.seam import Diverged
from trio_ai_proxy.routing.backoff import Budget
from trio_ai_proxy.routing.facts import Facts, TargetFacts
from trio_ai_proxy.routing.health import Health
from trio_ai_proxy.routing.router import Router
from trio_ai_proxy.settings import BreakerSettings, ModelSettings, TargetSettings

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.relay.exchange import Leg

DOWN = UpstreamStatus("Down.", upstream_status=503)
BAD = UpstreamStatus("Bad.", upstream_status=400)
KEY = UpstreamStatus("Key.", upstream_status=401)
CUT = TruncatedStream("Cut.")
SILENT = UpstreamTimeout("first_token", 1, "Silent.")
STALLED = UpstreamTimeout("idle", 1, "Stalled.")
DIVERGED = Diverged("Other.")


@dataclass
class Way:
    """A journey through `count` targets, and who may not be asked."""

    count: int = 3
    retries: int = 1
    unable: set[int] = field(default_factory=set)
    model: dict[str, Any] = field(default_factory=dict)
    hedges: float = 1.0

    def __post_init__(self) -> None:
        targets = tuple(TargetSettings("p", f"m{index}", priority=index) for index in range(self.count))
        model = ModelSettings("m", targets, retries=self.retries, **self.model)
        self.healths = [Health(BreakerSettings()) for _ in targets]
        router = Router(model, self.healths, [TargetFacts() for _ in targets])
        self.stand_ins: list[tuple[int, bool]] = []
        self.budget = Budget(self.hedges)
        self.journey = Journey(model, router, self.healths, Facts, self._make, self.budget)

    def _make(self, index: int, is_stand_in: bool) -> Leg:
        if index in self.unable:
            raise InvalidRequest(f"Not {index}.")
        self.stand_ins.append((index, is_stand_in))
        request = ChatRequest("chat", "m", True, False, {"messages": []})
        made = SimpleNamespace(index=index, request=request, ask_stream=True, override=None, begun="", credential=None)
        return cast("Leg", made)

    def after(self, leg: Leg, error: ProxyError, *, left: float = 100.0) -> tuple[int, float] | None:
        step = self.journey.after([(leg, error)], left=left)
        return None if step is None else (step[0].index, step[1])


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)


class TestFirst:
    async def test_is_the_best(self, autojump_clock: MockClock) -> None:
        way = Way()
        assert way.journey.first().index == 0
        assert way.stand_ins == [(0, False)]

    async def test_who_cannot_take_it_is_passed_over(self, autojump_clock: MockClock) -> None:
        assert Way(unable={0, 1}).journey.first().index == 2

    async def test_nobody_who_can_take_it_is_the_first_refusal(self, autojump_clock: MockClock) -> None:
        with pytest.raises(InvalidRequest, match=r"Not 0\."):
            Way(unable={0, 1, 2}).journey.first()


class TestAfter:
    async def test_same_target_as_often_as_retries_say_then_the_next(self, autojump_clock: MockClock) -> None:
        way = Way(retries=2)
        leg = way.journey.first()
        assert way.after(leg, DOWN) == (0, 0.125)
        assert way.after(leg, DOWN) == (0, 0.25)
        assert way.after(leg, DOWN) == (1, 0.0)
        assert way.stand_ins == [(0, False), (1, True)]

    @pytest.mark.parametrize("error", [SILENT, KEY, Overloaded("Full."), InvalidRequest("No word.")])
    async def test_next_at_once(self, autojump_clock: MockClock, error: ProxyError) -> None:
        way = Way()
        assert way.after(way.journey.first(), error) == (1, 0.0)

    @pytest.mark.parametrize("error", [BAD, UpstreamStatus("No.", upstream_status=400, code="content_filter")])
    async def test_nobody(self, autojump_clock: MockClock, error: ProxyError) -> None:
        way = Way()
        assert way.after(way.journey.first(), error) is None

    async def test_pause_that_does_not_fit_is_skipped(self, autojump_clock: MockClock) -> None:
        way = Way()
        limited = UpstreamStatus("Slow.", upstream_status=429, retry_after=5)
        assert way.after(way.journey.first(), limited, left=5.5) == (1, 0.0)

    async def test_who_cannot_take_it_is_passed_over(self, autojump_clock: MockClock) -> None:
        way = Way(unable={1})
        assert way.after(way.journey.first(), SILENT) == (2, 0.0)

    async def test_everybody_once_is_the_end(self, autojump_clock: MockClock) -> None:
        way, leg = Way(), None
        leg = way.journey.first()
        for _ in range(2):
            step = way.journey.after([(leg, SILENT)], left=100)
            assert step is not None
            leg = step[0]
        assert way.after(leg, SILENT) is None

    async def test_two_that_failed_side_by_side_are_one_step(self, autojump_clock: MockClock) -> None:
        way = Way(count=4, retries=0)
        one = way.journey.first()
        other = way.journey.beside(one)
        assert other is not None
        step = way.journey.after([(one, DOWN), (other, DOWN)], left=100)
        assert step is not None
        assert step[0].index == 2
        assert [index for index, _ in way.stand_ins] == [0, 1, 2]

    async def test_refusal_of_either_is_the_end(self, autojump_clock: MockClock) -> None:
        way = Way(count=4)
        one = way.journey.first()
        other = way.journey.beside(one)
        assert other is not None
        assert way.journey.after([(one, BAD), (other, DOWN)], left=100) is None


class TestInstead:
    async def test_another_one(self, autojump_clock: MockClock) -> None:
        way = Way()
        leg = way.journey.first()
        found = way.journey.instead(leg, CUT, is_cut=True)
        assert found is not None
        assert found.index == 1

    @pytest.mark.parametrize(("error", "again"), [(CUT, True), (STALLED, True), (DIVERGED, False)])
    async def test_same_where_there_is_no_other(
        self, autojump_clock: MockClock, error: ProxyError, again: bool
    ) -> None:
        way = Way(count=1, retries=1)
        leg = way.journey.first()
        assert (way.journey.instead(leg, error, is_cut=True) is not None) is again
        assert way.journey.instead(leg, error, is_cut=True) is None

    async def test_never_without_retries(self, autojump_clock: MockClock) -> None:
        way = Way(count=1, retries=0)
        assert way.journey.instead(way.journey.first(), CUT, is_cut=True) is None

    async def test_who_broke_off_before_who_said_something_else(self, autojump_clock: MockClock) -> None:
        way = Way(count=2)
        first = way.journey.first()
        second = way.journey.instead(first, CUT, is_cut=True)
        assert second is not None
        third = way.journey.instead(second, DIVERGED, is_cut=True)
        assert third is first

    async def test_refusal_of_a_stand_in_is_passed_over(self, autojump_clock: MockClock) -> None:
        way = Way()
        second = way.journey.instead(way.journey.first(), CUT, is_cut=True)
        assert second is not None
        third = way.journey.instead(second, BAD, is_cut=False)
        assert third is not None
        assert third.index == 2

    async def test_refusal_that_ends_an_answer_ends_it(self, autojump_clock: MockClock) -> None:
        way = Way()
        assert way.journey.instead(way.journey.first(), BAD, is_cut=True) is None

    async def test_restarts_are_paid_from_the_budget(self, autojump_clock: MockClock) -> None:
        way = Way(count=1, retries=5)
        while way.healths[0].budget.spend(trio.current_time()):
            pass
        assert way.journey.instead(way.journey.first(), CUT, is_cut=True) is None


class TestHedge:
    async def test_off_and_alone(self, autojump_clock: MockClock) -> None:
        way = Way()
        assert way.journey.hedge_after(way.journey.first()) is None
        way = Way(count=1, model={"hedge_after": 1.0})
        assert way.journey.hedge_after(way.journey.first()) is None

    async def test_p95_is_the_target_s_own(self, autojump_clock: MockClock) -> None:
        way = Way(model={"hedge_after": "p95"})
        leg = way.journey.first()
        assert way.journey.hedge_after(leg) is None
        for number in range(20):
            trial = way.healths[0].begin(0.0)
            way.healths[0].first_token(trial, (number + 1) / 10)
            way.healths[0].end(trial, 9.0, "success")
        assert way.journey.hedge_after(leg) == pytest.approx(1.9)

    async def test_empty_budget_asks_nobody_and_chooses_nobody(self, autojump_clock: MockClock) -> None:
        way = Way()
        leg = way.journey.first()
        while way.budget.spend(trio.current_time()):
            pass
        assert way.journey.beside(leg) is None
        assert way.stand_ins == [(0, False)]

    async def test_nobody_beside_costs_nothing(self, autojump_clock: MockClock) -> None:
        way = Way(count=1)
        held = way.budget.held
        assert way.journey.beside(way.journey.first()) is None
        assert way.budget.held == held

    async def test_who_was_beaten_by_one_that_fails_comes_after_all_others(self, autojump_clock: MockClock) -> None:
        way = Way(retries=0)
        first = way.journey.first()
        other = way.journey.beside(first)
        assert other is not None
        assert (other.index, way.after(other, CUT)) == (1, (2, 0.0))
        third = cast("Leg", SimpleNamespace(**{**vars(other), "index": 2}))
        assert way.after(third, CUT) == (0, 0.0)
        assert way.after(first, CUT) is None

    @pytest.mark.parametrize("is_cut", [True, False])
    async def test_who_has_failed_was_not_beaten(self, autojump_clock: MockClock, is_cut: bool) -> None:
        way = Way(retries=0, count=2)
        first = way.journey.first()
        other = way.journey.beside(first)
        assert other is not None
        if is_cut:
            assert way.journey.instead(first, CUT, is_cut=True).index == 1  # type: ignore[union-attr]
            assert way.journey.instead(other, CUT, is_cut=False) is None
        else:
            assert way.journey.after([(first, CUT), (other, CUT)], left=9.0) is None


class TestTrial:
    @staticmethod
    def meter(*, told: bool = False) -> Meter:
        meter = Meter(accepted_at=0.0, encoding=None)
        meter.observe([TextDelta("The sea is wide.")], 1.0)
        if told:
            meter.observe([UsageReported(TokenUsage(10, 20, 30))], 1.0)
        return meter

    async def test_wait_for_a_slot_is_not_the_target_s(self, autojump_clock: MockClock) -> None:
        way = Way()
        trial = way.journey.begin(way.journey.first())
        await trio.sleep(5)
        trial.sent()
        await trio.sleep(1)
        trial.first_token()
        trial.end(None, self.meter(), is_over=True)
        assert way.healths[0].ttft(trio.current_time()) == 1.0

    async def test_call_that_never_got_a_slot_says_nothing(self, autojump_clock: MockClock) -> None:
        way = Way()
        trial = way.journey.begin(way.journey.first())
        trial.sent()
        trial.first_token()
        trial.end(None, self.meter(), is_over=True)
        trial = way.journey.begin(way.journey.first())
        await trio.sleep(30)
        trial.end(Overloaded("Full."), Meter(accepted_at=0, encoding=None), is_over=True)
        assert way.healths[0].ttft(trio.current_time()) == 0.0
        assert way.healths[0].breaker.consecutive == 0

    @pytest.mark.parametrize("error", [DIVERGED, BAD, InvalidRequest("No."), None])
    async def test_what_is_not_its_fault(self, autojump_clock: MockClock, error: ProxyError | None) -> None:
        way = Way()
        way.journey.begin(way.journey.first()).end(error, self.meter(), is_over=True)
        assert way.healths[0].breaker.consecutive == 0
        assert way.healths[0].in_flight == 0

    async def test_what_is(self, autojump_clock: MockClock) -> None:
        way = Way()
        way.journey.begin(way.journey.first()).end(UpstreamRefused("No."), self.meter(), is_over=True)
        way.journey.begin(way.journey.first()).end(UpstreamRefused("No."), self.meter(), is_over=False)
        assert way.healths[0].breaker.consecutive == 1

    async def test_tokens_are_those_that_were_told(self, autojump_clock: MockClock) -> None:
        way = Way()
        way.journey.begin(way.journey.first()).end(None, self.meter(told=True), is_over=True)
        assert way.healths[0].tokens(trio.current_time()) == 30
        way.journey.begin(way.journey.first()).end(None, self.meter(), is_over=True)
        assert way.healths[0].tokens(trio.current_time()) > 30

    async def test_retry_earns_nothing(self, autojump_clock: MockClock) -> None:
        way = Way()
        leg = way.journey.first()
        assert way.healths[0].budget.spend(trio.current_time())
        assert way.healths[0].budget.spend(trio.current_time())
        way.journey.begin(leg).end(None, self.meter(), is_over=True)
        before = way.healths[0].budget.held
        way.after(leg, SILENT)
        way.journey.begin(leg).end(None, self.meter(), is_over=True)
        assert way.healths[0].budget.held == before
