"""The sixteen scenarios of Failover Bench, by their numbers, on a virtual clock: what the client gets, when, and who was asked
how often. Chance always says one half.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import DONE, ROLE, STOP, delta, error_of, said, stream, terminals
from support.failover import WHOLE, WORDS, Relay, answer, broken, counted, ids, models, text

from trio_ai_proxy.settings import BreakerSettings
from trio_ai_proxy.testing import Script, openai_answer, openai_error

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

ANSWER_SECONDS = len(WORDS) * 0.015
DEADLINES = {"first_token": 10.0, "idle": 8.0, "total": 60.0}


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)


def relay(**playing: Any) -> Relay:
    model = {"continuation": "splice", "retries": 1, **playing.pop("model", {})}
    return Relay(timeouts=DEADLINES, model=model, **playing)


def assert_whole(got: ClientAnswer) -> None:
    assert got.status == 200
    assert text(got) == WHOLE
    assert terminals(got) == ["[DONE]"]
    assert len(ids(got)) == 1
    assert len([one for one in said(got) if isinstance(one.payload, dict) and one.payload["choices"]]) >= 61


def test_answer_has_sixty_words() -> None:
    assert len(WORDS) == len(WHOLE.split()) == 60


async def test_s01_retry_after_is_kept(autojump_clock: MockClock) -> None:
    limited = openai_error(429, type="rate_limit_error", code="rate_limit_exceeded", headers=[("retry-after", "2")])
    async with relay(a=[limited, answer()], b=answer()) as bench:
        got = await bench.ask_stream()
        assert_whole(got)
        assert bench.times("a") == [0.0, 2.125]
        assert bench.times("b") == []
        assert got.header("x-llm-attempts") == "2"
        assert trio.current_time() == pytest.approx(2.125 + ANSWER_SECONDS)
    assert bench.rows_of_record == [("a", "first", "upstream_error"), ("a", "retry", "completed")]


async def test_s02_rate_limit_that_lasts_is_asked_twice_and_left(autojump_clock: MockClock) -> None:
    async with relay(a=openai_error(429, type="rate_limit_error"), b=answer()) as bench:
        assert_whole(await bench.ask_stream())
        assert bench.times("a") == [0.0, 0.125]
        assert bench.times("b") == [0.125]
    assert [row[1] for row in bench.rows_of_record] == ["first", "retry", "next"]


async def test_s03_one_server_error_is_tried_again_at_the_same_target(autojump_clock: MockClock) -> None:
    async with relay(a=[openai_error(500), answer()], b=answer()) as bench:
        assert_whole(await bench.ask_stream())
        assert bench.times("a") == [0.0, 0.125]
        assert bench.times("b") == []


async def test_s04_server_error_that_lasts_leads_to_the_next(autojump_clock: MockClock) -> None:
    async with relay(a=openai_error(503), b=answer()) as bench:
        got = await bench.ask_stream()
        assert_whole(got)
        assert (len(bench.times("a")), bench.times("b")) == (2, [0.125])
        assert got.header("x-llm-provider") == "b"


async def test_s04_with_nowhere_to_go_the_first_error_is_told(autojump_clock: MockClock) -> None:
    async with relay(a=openai_error(503, "Overloaded."), b=openai_error(401, "No.")) as bench:
        got = await bench.ask_stream()
        assert (got.status, error_of(got)["message"]) == (503, "Overloaded.")
        assert got.header("x-llm-provider") == "a"
    assert (bench.record.outcome, bench.record.provider) == ("upstream_error", "a")


async def test_s05_reset_before_the_head_is_tried_again(autojump_clock: MockClock) -> None:
    async with relay(a=[Script(refuse=True), answer()], b=answer()) as bench:
        assert_whole(await bench.ask_stream())
        assert (bench.times("a"), bench.times("b")) == ([0.0, 0.125], [])


async def test_s06_silent_provider_is_asked_once(autojump_clock: MockClock) -> None:
    async with relay(a=Script(head_pause=120), b=answer()) as bench:
        assert_whole(await bench.ask_stream())
        assert (bench.times("a"), bench.released("a"), bench.times("b")) == ([0.0], [10.0], [10.0])
    assert bench.rows_of_record == [("a", "first", "timeout_first_token"), ("b", "next", "completed")]


async def test_s07_slow_first_token_leads_to_the_next(autojump_clock: MockClock) -> None:
    slow = stream((20, delta(ROLE)), *[delta(word) for word in WORDS], STOP, DONE)
    async with relay(a=slow, b=answer()) as bench:
        assert_whole(await bench.ask_stream())
        assert trio.current_time() == pytest.approx(10 + ANSWER_SECONDS)


@pytest.mark.parametrize("role_first", [True, False])
async def test_s07_a_role_is_no_token(autojump_clock: MockClock, role_first: bool) -> None:
    parts = [delta(ROLE), (20.0, delta("late"))] if role_first else [(20.0, delta("late"))]
    async with relay(a=stream(*parts), b=answer()) as bench:
        assert_whole(await bench.ask_stream())
        assert bench.released("a") == [10.0]


async def test_s08_cut_answer_is_gone_on_with_by_the_next(autojump_clock: MockClock) -> None:
    async with relay(a=broken(40), b=answer(model="other")) as bench:
        got = await bench.ask_stream()
        assert_whole(got)
        assert bench.times("b") == [pytest.approx(40 * 0.015)]
        assert models(got) == {"gpt-4o"}
        assert got.header("x-llm-provider") == "a"
    record = bench.record
    assert bench.rows_of_record == [("a", "first", "upstream_truncated"), ("b", "continuation", "completed")]
    assert (record.outcome, record.provider, record.completion_tokens) == ("completed", "b", 60)
    assert record.ttft_ms == 15.0
    assert [row.answered for row in record.attempts] == [True, True]


async def test_s08_one_target_alone_is_asked_again(autojump_clock: MockClock) -> None:
    async with relay(a=[broken(40), answer()]) as bench:
        assert_whole(await bench.ask_stream())
        assert len(bench.times("a")) == 2


async def test_s09_silence_in_the_middle_is_gone_on_with(autojump_clock: MockClock) -> None:
    async with relay(a=broken(20, ending="stall"), b=answer()) as bench:
        assert_whole(await bench.ask_stream())
        assert bench.times("b") == [pytest.approx(20 * 0.015 + 8)]
        assert bench.released("a") == bench.times("b")
    assert bench.rows_of_record[0] == ("a", "first", "timeout_idle")


async def test_s10_one_malformed_event_is_left_out(autojump_clock: MockClock) -> None:
    parts = [delta(ROLE), *[delta(word) for word in WORDS]]
    parts.insert(10, b'data: {"id": "1", "choices": [{"delta": {"content": \n\n')
    async with relay(a=stream(*parts, STOP, DONE), b=answer()) as bench:
        assert_whole(await bench.ask_stream())
        assert bench.times("b") == []
    assert bench.record.malformed_events == 1


async def test_s11_end_without_done_is_an_end(autojump_clock: MockClock) -> None:
    async with relay(a=answer(done=False), b=answer()) as bench:
        got = await bench.ask_stream(
            json={
                "model": "gpt-4o", "stream": True, "stream_options": {"include_usage": True},
                "messages": [{"role": "user", "content": "?"}],
            }
        )  # fmt: skip
        assert_whole(got)
        assert counted(got)["completion_tokens"] == 60
        assert trio.current_time() == pytest.approx(ANSWER_SECONDS)


async def test_s12_too_long_a_context_goes_to_a_larger_one_alone(autojump_clock: MockClock) -> None:
    too_long = openai_error(400, type="invalid_request_error", code="context_length_exceeded")
    sizes = {"a": {"max_context": 8192}, "b": {"max_context": 8192}, "c": {"max_context": 200_000}}
    async with relay(a=too_long, b=answer(), c=answer(), targets=sizes) as bench:
        assert_whole(await bench.ask_stream())
        assert (bench.times("a"), bench.times("b"), bench.times("c")) == ([0.0], [], [0.0])
    async with relay(a=too_long, b=answer()) as bench:
        got = await bench.ask_stream()
        assert (got.status, error_of(got)["code"]) == (400, "context_length_exceeded")
        assert (len(bench.times("a")), bench.times("b")) == (1, [])


async def test_s13_content_policy_is_not_walked_round(autojump_clock: MockClock) -> None:
    refused = openai_error(400, "Rejected by our safety system.", code="content_policy_violation")
    async with relay(a=refused, b=answer()) as bench:
        got = await bench.ask_stream()
        assert (got.status, error_of(got)["code"]) == (400, "content_policy_violation")
        assert (bench.times("a"), bench.times("b")) == ([0.0], [])


@pytest.mark.parametrize("says_so", [True, False])
async def test_s14_refusal_to_be_prefilled_is_never_the_answer(autojump_clock: MockClock, says_so: bool) -> None:
    def no_prefill(body: dict[str, Any]) -> Script:
        if body["messages"][-1]["role"] == "assistant":
            return openai_error(400, "No prefill.", code="invalid_prefill")
        return answer(["Something", " else."] if not says_so else WORDS)

    targets = {"b": {"prefill": not says_so}}
    async with relay(a=broken(40), b=no_prefill, targets=targets, model={"retries": 0}) as bench:
        got = await bench.ask_stream()
        if says_so:
            assert_whole(got)
        else:
            assert terminals(got) == ["upstream_truncated"]
            assert text(got) == "".join(WORDS[:40])
            assert len(bench.times("b")) == 2


async def test_s15_flapping_provider_costs_nobody_an_answer(autojump_clock: MockClock) -> None:
    def flapping(_: dict[str, Any]) -> Script:
        return openai_error(503) if trio.current_time() < 60 else answer(pause=0)

    breaker = BreakerSettings(failures=3, rate=0.5, window=30.0, open=8.0)
    async with relay(a=flapping, b=answer(pause=0), model={"breaker": breaker}) as bench:
        for number in range(30):
            await trio.sleep_until(number * 4.0)
            assert_whole(await bench.ask_stream())
        tries = [at for at in bench.times("a") if at < 60]
        assert tries[:3] == [0.0, 0.125, 4.0]
        assert len(tries) <= 20
        recovered = next(record for record in bench.records if record.provider == "a")
        assert bench.records.index(recovered) * 4 - 60 <= 12
        last = bench.records[-5:]
        assert [record.provider for record in last] == ["a"] * 5


async def test_s16_books_name_who_answered(autojump_clock: MockClock) -> None:
    async with relay(a=openai_error(503), b=answer(model="model-b")) as bench:
        got = await bench.ask_stream(
            json={
                "model": "gpt-4o", "stream": True, "stream_options": {"include_usage": True},
                "messages": [{"role": "user", "content": "?"}],
            }
        )  # fmt: skip
        assert_whole(got)
        assert models(got) == {"model-b"}
        assert (got.header("x-llm-provider"), got.header("x-llm-model")) == ("b", "model-b")
        assert counted(got) == {"prompt_tokens": 7, "completion_tokens": 60, "total_tokens": 67, "model": "model-b"}
    record = bench.record
    assert (record.provider, record.target_model, record.completion_tokens) == ("b", "model-b", 60)
    assert [row.completion_tokens for row in record.attempts] == [0, 0, 60]
    assert [row.answered for row in record.attempts] == [False, False, True]


async def test_s16_without_a_stream(autojump_clock: MockClock) -> None:
    async with relay(a=openai_error(503), b=openai_answer(WHOLE, usage=(7, 60), model="model-b")) as bench:
        got = await bench.ask()
        assert (got.status, got.json()["model"], got.json()["usage"]["completion_tokens"]) == (200, "model-b", 60)
