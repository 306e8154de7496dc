"""Comments while the provider thinks: at exact times, and what they cost, for they commit the status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.exchanges import (
    DONE,
    ROLE,
    STOP,
    Bench,
    delta,
    error_of,
    in_band_error,
    said,
    stream,
    terminals,
    text,
    times,
)  # fmt: skip

from trio_ai_proxy.testing import openai_answer, openai_error

if TYPE_CHECKING:
    from trio.testing import MockClock

COMMENT = ": keep-alive"
KEEP_ALIVE = {"keep_alive": 15.0}


async def test_comments_fill_the_silence_before_the_first_token(autojump_clock: MockClock) -> None:
    async with Bench(stream(delta(ROLE), (50, delta("sea")), STOP, DONE), model=KEEP_ALIVE) as bench:
        answer = await bench.ask_stream()
        comments = [one.at for one in said(answer) if one.payload == COMMENT]
        assert comments == [15.0, 30.0, 45.0]
        assert answer.started_at == 15.0
        assert text(answer) == "sea"
        assert terminals(answer) == ["[DONE]"]
    assert (bench.record.outcome, bench.record.ttft_ms) == ("completed", 50_000)


async def test_comments_fill_the_silence_in_mid_stream(autojump_clock: MockClock) -> None:
    script = stream((1, delta("The")), (14, delta(" sea")), (31, STOP), DONE)
    async with Bench(script, model=KEEP_ALIVE) as bench:
        answer = await bench.ask_stream()
        assert [one.at for one in said(answer) if one.payload == COMMENT] == [30.0, 45.0]


async def test_comment_is_no_token_to_the_first_token_deadline(autojump_clock: MockClock) -> None:
    async with Bench(stream(head_pause=1e9), model=KEEP_ALIVE, timeouts={"first_token": 40}) as bench:
        answer = await bench.ask_stream()
        at, error = in_band_error(answer)
        assert (at, error["code"], bench.released_at) == (40.0, "timeout_first_token", 40.0)
        assert times(answer) == [15.0, 30.0, 40.0]
    assert (bench.record.outcome, bench.record.status) == ("timeout_first_token", 200)


async def test_error_before_the_first_comment_keeps_its_status(autojump_clock: MockClock) -> None:
    async with Bench(openai_error(429, head_pause=14), model=KEEP_ALIVE) as bench:
        answer = await bench.ask_stream()
        assert answer.status == 429
        error_of(answer)


async def test_error_after_the_first_comment_is_told_in_band(autojump_clock: MockClock) -> None:
    async with Bench(openai_error(429, "Slow down.", code="rate", head_pause=16), model=KEEP_ALIVE) as bench:
        answer = await bench.ask_stream()
        at, error = in_band_error(answer)
        assert (at, error["message"], error["code"]) == (16.0, "Slow down.", "rate")
    assert (bench.record.outcome, bench.record.status) == ("upstream_error", 200)


async def test_one_shot_answers_have_no_comments(autojump_clock: MockClock) -> None:
    async with Bench(openai_answer("sea", head_pause=50), model=KEEP_ALIVE) as bench:
        answer = await bench.ask()
        assert times(answer) == [50.0]
        assert answer.json()["choices"][0]["message"]["content"] == "sea"


async def test_client_that_leaves_between_comments_ends_it(autojump_clock: MockClock) -> None:
    async with Bench(stream(head_pause=1e9), model=KEEP_ALIVE) as bench:
        answer = await bench.ask_stream(leave_after=20)
        assert (times(answer), answer.returned_at, bench.released_at) == ([15.0], 20.0, 20.0)
    assert (bench.record.outcome, bench.record.status) == ("client_gone", 200)


async def test_nobody_gets_comments_while_the_provider_is_read_on(autojump_clock: MockClock) -> None:
    script = stream((60, delta("sea")), STOP, DONE)
    async with Bench(script, model={**KEEP_ALIVE, "on_disconnect": "drain"}) as bench:
        answer = await bench.ask_stream(leave_after=20)
        assert bench.released_at == 60.0
    assert (bench.record.chunks_out, bench.record.bytes_out) == (1, len(answer.body))


async def test_comments_stop_for_a_client_that_does_not_read(autojump_clock: MockClock) -> None:
    async with Bench(stream(head_pause=1e9), model=KEEP_ALIVE) as bench:
        await bench.ask_stream(stop_reading_after=1, leave_after=200)
    assert bench.record.chunks_out <= 2
