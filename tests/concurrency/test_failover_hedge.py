"""A slow target gets a second one beside it: the first real token wins, and the other is let go of in that instant."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import DONE, QUESTION, ROLE, STOP, delta, error_of, said, stream, terminals
from support.failover import Awaited, Relay, answer, broken, ids, text

from trio_ai_proxy.testing import Script, openai_answer, openai_error

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

SEA = ["The", " sea", " is", " wide", "."]


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)


def relay(**playing: Any) -> Relay:
    model = {"hedge_after": 3.0, "hedge_budget": 1.0, "retries": 0, **playing.pop("model", {})}
    return Relay(model=model, **playing)


def slow(seconds: float, words: list[str] | None = None, **more: Any) -> Script:
    return answer(words or SEA, before=seconds, pause=0.0, **more)


def assert_whole(got: ClientAnswer) -> None:
    assert (got.status, text(got), terminals(got)) == (200, "The sea is wide.", ["[DONE]"])


@pytest.mark.parametrize("continuation", ["off", "splice"])
class TestRace:
    async def test_second_wins(self, autojump_clock: MockClock, continuation: str) -> None:
        async with relay(a=slow(20), b=slow(2), model={"continuation": continuation}) as bench:
            got = await bench.ask_stream()
            assert_whole(got)
            assert trio.current_time() == 5.0
            assert (bench.times("b"), bench.released("a")) == ([3.0], [5.0])
            assert (got.header("x-llm-provider"), got.header("x-llm-attempts")) == ("b", "2")
        assert bench.rows_of_record == [("a", "first", "beaten"), ("b", "hedge", "completed")]
        assert (bench.record.provider, bench.record.ttft_ms) == ("b", 5000.0)
        assert [row.answered for row in bench.record.attempts] == [False, True]
        assert [row.milliseconds for row in bench.record.attempts] == [5000.0, 2000.0]

    async def test_first_wins(self, autojump_clock: MockClock, continuation: str) -> None:
        async with relay(a=slow(4), b=slow(5), model={"continuation": continuation}) as bench:
            got = await bench.ask_stream()
            assert_whole(got)
            assert (bench.times("b"), bench.released("b")) == ([3.0], [4.0])
            assert (got.header("x-llm-provider"), got.header("x-llm-attempts")) == ("a", "2")
        assert bench.rows_of_record == [("a", "first", "completed"), ("b", "hedge", "beaten")]

    async def test_quick_first_stays_alone(self, autojump_clock: MockClock, continuation: str) -> None:
        async with relay(a=slow(2.9), b=slow(0), model={"continuation": continuation}) as bench:
            assert_whole(await bench.ask_stream())
            assert bench.times("b") == []

    async def test_token_in_the_very_instant_of_the_hedge(self, autojump_clock: MockClock, continuation: str) -> None:
        async with relay(a=slow(3), b=slow(0), model={"continuation": continuation}) as bench:
            assert_whole(await bench.ask_stream())
        assert {row.outcome for row in bench.record.attempts} <= {"completed", "beaten"}

    async def test_a_role_is_no_token(self, autojump_clock: MockClock, continuation: str) -> None:
        a = stream(delta(ROLE), (20.0, delta("late")), STOP, DONE)
        async with relay(a=a, b=slow(1), model={"continuation": continuation}) as bench:
            got = await bench.ask_stream()
            assert_whole(got)
            assert said(got)[0].payload["choices"][0]["delta"] == ROLE

    @pytest.mark.parametrize("number", range(8))  # which of two tasks that are due runs first is up to chance
    async def test_tie_leaves_no_trace_of_the_loser(
        self, autojump_clock: MockClock, continuation: str, number: int
    ) -> None:
        """Both tokens are there before either is read, and the winner breaks off: what the other one said was never given."""
        bench = relay(a=slow(0), b=slow(0), c=slow(0), model={"continuation": continuation}, timeouts={"idle": 5.0})
        both = {name: Awaited(delta("The", id=name), delta(" sea", id=name), at_once=0) for name in "ab"}
        bench.transports |= both
        found: list[ClientAnswer] = []

        async def ask() -> None:
            found.append(await bench.ask_stream())

        async with bench:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(4)
                for one in both.values():
                    one.more()
                await trio.sleep(1)
                for one in both.values():
                    one.more()
            if continuation == "splice":
                assert_whole(found[0])
                assert len(ids(found[0])) == 1
            else:
                assert (text(found[0]), terminals(found[0])) == ("The sea", ["timeout_idle"])
        outcomes = [row.outcome for row in bench.record.attempts]
        assert sorted(outcomes[:2]) == ["beaten", "timeout_idle"]

    async def test_winner_that_is_cut(self, autojump_clock: MockClock, continuation: str) -> None:
        async with relay(a=slow(20), b=broken(2, words=SEA), c=slow(1), model={"continuation": continuation}) as bench:
            got = await bench.ask_stream()
            if continuation == "splice":
                assert_whole(got)
            else:
                assert terminals(got) == ["upstream_truncated"]
        assert bench.rows_of_record[:2] == [("a", "first", "beaten"), ("b", "hedge", "upstream_truncated")]


class TestFailures:
    async def test_first_fails_and_second_goes_on(self, autojump_clock: MockClock) -> None:
        async with relay(a=Script(status=500, head_pause=4), b=slow(5)) as bench:
            assert_whole(await bench.ask_stream())
            assert trio.current_time() == 8.0
        assert bench.rows_of_record == [("a", "first", "upstream_error"), ("b", "hedge", "completed")]

    async def test_second_fails_and_first_goes_on(self, autojump_clock: MockClock) -> None:
        async with relay(a=slow(8), b=openai_error(500)) as bench:
            assert_whole(await bench.ask_stream())
        assert bench.rows_of_record == [("a", "first", "completed"), ("b", "hedge", "upstream_error")]

    async def test_first_fails_before_there_is_a_second(self, autojump_clock: MockClock) -> None:
        async with relay(a=openai_error(500, head_pause=1), b=slow(5), c=slow(0)) as bench:
            assert_whole(await bench.ask_stream())
            assert (bench.times("b"), bench.times("c")) == ([1.0], [4.0])

    async def test_both_fail_and_a_third_answers(self, autojump_clock: MockClock) -> None:
        async with relay(a=openai_error(500, head_pause=4), b=openai_error(503, head_pause=5), c=slow(0)) as bench:
            assert_whole(await bench.ask_stream())
            assert bench.times("c") == [8.0]

    async def test_all_fail_and_the_first_is_told(self, autojump_clock: MockClock) -> None:
        a, b = openai_error(500, "First.", head_pause=4), openai_error(401, "Second.", head_pause=5)
        async with relay(a=a, b=b) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["message"]) == (502, "First.")

    async def test_refusal_of_the_request_is_not_walked_round(self, autojump_clock: MockClock) -> None:
        refused = openai_error(400, "No.", code="content_filter", head_pause=4)
        async with relay(a=refused, b=openai_error(500, head_pause=5), c=slow(0)) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"], bench.times("c")) == (400, "content_filter", [])

    async def test_neither_answers_in_time(self, autojump_clock: MockClock) -> None:
        stalls = stream(delta(ROLE), ending="stall")
        async with relay(a=stalls, b=stalls, timeouts={"first_token": 10.0}) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"]) == (504, "timeout_first_token")
            assert trio.current_time() == 13.0


class TestRestraint:
    async def test_budget(self, autojump_clock: MockClock) -> None:
        async with relay(a=slow(4), b=slow(9), model={"hedge_budget": 0.05}) as bench:
            for _ in range(100):
                await bench.ask_stream()
            # Ten at once, a twentieth of a hundred, and one in ten seconds.
            assert 10 <= len(bench.times("b")) <= 10 + 5 + 40 + 1

    async def test_budget_that_is_empty_chooses_nobody(self, autojump_clock: MockClock) -> None:
        async with relay(a=slow(4), b=slow(9)) as bench:
            await bench.ask_stream()
            hedges = bench.gateway.routers.known["gpt-4o"].hedges
            while hedges.spend(trio.current_time()):
                pass
            hedges._per_second = hedges._ratio = 0.0
            await bench.ask_stream()
            assert len(bench.times("b")) == 1

    @pytest.mark.parametrize(
        ("fields", "hedged"),
        [
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, True),
            ({"tools": [{"type": "web_search"}]}, False),
            ({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "mcp"}]}, False),
            ({"tools": 5}, False),
            ({"web_search_options": {}}, False),
            ({}, True),
        ],
    )
    async def test_never_with_tools_of_the_provider(
        self, autojump_clock: MockClock, fields: dict[str, Any], hedged: bool
    ) -> None:
        async with relay(a=slow(5), b=slow(1)) as bench:
            assert_whole(await bench.ask_stream(json={**QUESTION, "stream": True, **fields}))
            assert bool(bench.times("b")) is hedged

    async def test_never_for_an_answer_in_one_piece(self, autojump_clock: MockClock) -> None:
        async with relay(a=openai_answer("sea", head_pause=9), b=openai_answer("sea")) as bench:
            assert (await bench.ask()).status == 200
            assert bench.times("b") == []

    async def test_p95_waits_until_it_knows(self, autojump_clock: MockClock) -> None:
        scripts = [*[slow(1)] * 20, slow(30)]
        async with relay(a=scripts, b=slow(1), model={"hedge_after": "p95"}) as bench:
            for _ in range(20):
                await bench.ask_stream()
            assert bench.times("b") == []
            began = trio.current_time()
            assert_whole(await bench.ask_stream())
            assert trio.current_time() - began == pytest.approx(2.0)

    async def test_wait_for_a_slot_is_no_slowness_of_the_target(self, autojump_clock: MockClock) -> None:
        async with relay(
            a=slow(1), b=slow(1), providers={"a": {"max_in_flight": 1}}, model={"hedge_after": None}
        ) as bench:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(bench.ask_stream)
            health = bench.gateway.routers.known["gpt-4o"].healths[0]
            assert health.ttft(trio.current_time()) == pytest.approx(1.0, abs=0.1)


class TestEnds:
    @pytest.mark.parametrize("after", [1.0, 3.0, 3.5, 5.0, 5.5])
    async def test_client_leaves(self, autojump_clock: MockClock, after: float) -> None:
        a, b = slow(20), answer(SEA, before=2, pause=1.0)
        async with relay(a=a, b=b) as bench:
            got = await bench.ask_stream(leave_after=after)
            assert got.returned_at == after
            for name in "ab":
                assert all(at is not None and at <= after for at in bench.released(name))
        assert bench.record.outcome == "client_gone"

    async def test_client_leaves_before_the_hedge_and_nobody_else_is_asked(self, autojump_clock: MockClock) -> None:
        """The provider is read on for its usage; that is no reason to begin another answer."""
        model = {"on_disconnect": "drain"}
        async with relay(a=slow(20, count=(7, 5)), b=slow(0), model=model, timeouts={"abandoned": 100.0}) as bench:
            await bench.ask_stream(leave_after=1.0)
            await trio.sleep(200)
            assert bench.times("b") == []
            assert bench.released("a") == [20.0]
        assert (bench.record.outcome, bench.record.completion_tokens) == ("client_gone", 5)
        assert [row.provider for row in bench.record.attempts] == ["a"]

    async def test_client_leaves_while_the_second_waits_for_a_slot(self, autojump_clock: MockClock) -> None:
        model = {"on_disconnect": "drain"}
        async with relay(
            a=slow(20), b=slow(10), model=model, timeouts={"abandoned": 100.0}, providers={"b": {"max_in_flight": 1}}
        ) as bench:
            slots = bench.gateway.accounts["b"].slots
            await slots.take(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(bench.ask_stream, leave_after=5.0))
                await trio.sleep(8)
                slots.give_back()
            assert bench.times("b") == []
            assert bench.released("a") == [20.0]

    async def test_operator_cancels(self, autojump_clock: MockClock) -> None:
        async with relay(a=slow(20), b=slow(20)) as bench, trio.open_nursery() as nursery:

            async def ask() -> None:
                got = await bench.ask_stream(headers=[("x-request-id", "me")])
                assert got.status == 503

            nursery.start_soon(ask)
            await trio.sleep(4)
            await bench.cancel("me")
            assert (bench.released("a"), bench.released("b")) == ([4.0], [4.0])
        assert [row.outcome for row in bench.record.attempts] == ["cancelled", "cancelled"]

    async def test_drain_ends_both(self, autojump_clock: MockClock) -> None:
        async with relay(a=slow(200), b=slow(200), server={"drain": 10.0}) as bench, trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask_stream)
            await trio.sleep(4)
            bench.gateway.begin_drain()
            await trio.sleep(10.5)
            assert (bench.released("a"), bench.released("b")) == ([14.0], [14.0])
        assert bench.record.outcome == "shutdown"

    async def test_total_ends_both(self, autojump_clock: MockClock) -> None:
        async with relay(a=slow(200), b=slow(200), timeouts={"total": 10.0}) as bench:
            got = await bench.ask_stream()
            assert (got.status, trio.current_time()) == (504, 10.0)
            assert (bench.released("a"), bench.released("b")) == ([10.0], [10.0])
        assert [row.outcome for row in bench.record.attempts] == ["timeout_total", "timeout_total"]

    async def test_crowd_leaves_nothing_behind(self, autojump_clock: MockClock) -> None:
        scripts = [slow(n % 7) for n in range(60)]
        others, few = [slow(n % 5) for n in range(60)], {"a": {"max_in_flight": 4}, "b": {"max_in_flight": 2}}
        bench = relay(a=scripts, b=others, providers=few, timeouts={"queue": 5.0}, model={"hedge_after": 1.0})
        async with bench, trio.open_nursery() as nursery:
            for number in range(60):
                manner: Any = {"leave_after": number % 9 / 2 + 0.5} if number % 3 == 0 else {}
                nursery.start_soon(partial(bench.ask_stream, **manner))
        assert len(bench.records) == 60
        assert {record.outcome for record in bench.records} <= {"completed", "client_gone", "timeout_queue"}
