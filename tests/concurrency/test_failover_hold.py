"""`continuation = "hold"`: what goes wrong while the beginning is held back is made again unseen; after that it is `splice`."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import (
    DONE,
    QUESTION,
    ROLE,
    SERVER_ERROR,
    STOP,
    delta,
    error_of,
    frame,
    in_band_error,
    said,
    stream,
    terminals,
    times,
    usage,
)
from support.failover import Awaited, Relay, answer, broken, counted, ids, text

from trio_ai_proxy.testing import Script, Step, openai_answer, openai_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

SEA = ["The", " sea", " is", " wide", "."]
OTHER = ["Water", " has", " no", " end", "."]
OLLAMA = {"a": {"kind": "ollama"}}
WIRES = pytest.mark.parametrize("wire", ["openai", "ollama"])


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)


def relay(wire: str = "openai", **playing: Any) -> Relay:
    """Holds for ten seconds, or until ever so much is there."""
    model = {"continuation": "hold", "retries": 0, "hold_for": 10.0, "hold_bytes": 2**20, **playing.pop("model", {})}
    providers = playing.pop("providers", OLLAMA if wire == "ollama" else {})
    return Relay(model=model, server={"validate_streams": True}, providers=providers, **playing)


def spoken(wire: str, words: list[str], *, ending: str = "whole", pause: float = 1.0, last: bytes = b"") -> Script:
    """`words`, one each `pause`, on the wire of the first target; then `last`, and the end."""
    if wire == "openai":
        parts: list[Any] = [delta(ROLE), *((pause, delta(word)) for word in words), *([last] if last else [])]
        parts += [STOP, usage(7, len(words)), DONE] if ending == "whole" else []
        return stream(*parts, ending="close" if ending == "whole" else ending)  # type: ignore[arg-type]

    def line(content: str, **more: Any) -> bytes:
        message = {"role": "assistant", "content": content}
        head = {"model": "llama3", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False}
        return json.dumps({**head, **more}).encode() + b"\n"

    steps = [Step(pause, line(word)) for word in words] + ([Step(0, last)] if last else [])
    if ending == "whole":
        counts = {"prompt_eval_count": 7, "eval_count": len(words)}
        steps.append(Step(0, line("", done=True, done_reason="stop", **counts)))
    return Script(
        headers=(("content-type", "application/x-ndjson"),),
        steps=lambda: iter(steps),
        ending="close" if ending == "whole" else ending,  # type: ignore[arg-type]
    )


def assert_whole(bench: Relay, got: ClientAnswer, whole: str) -> None:
    assert (got.status, text(got), terminals(got)) == (200, whole, ["[DONE]"])
    assert len(ids(got)) == 1
    assert bench.log("illegal stream") == []
    assert bench.log("bug") == []


class TestWithinTheWindow:
    @WIRES
    @pytest.mark.parametrize("after", [1, 2, 4])
    async def test_cut_is_made_again_and_nothing_of_it_is_seen(
        self, autojump_clock: MockClock, wire: str, after: int
    ) -> None:
        async with relay(wire, a=spoken(wire, SEA[:after], ending="cut"), b=answer(OTHER)) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got, "Water has no end.")
            assert (got.header("x-llm-provider"), got.header("x-llm-attempts")) == ("b", "2")
            assert b"The" not in got.body
            assert bench.released("a") == bench.times("b") == [float(after)]
        first, second = bench.record.attempts
        assert [(first.provider, first.kind, first.outcome), (second.provider, second.kind, second.outcome)] == [
            ("a", "first", "upstream_truncated"), ("b", "next", "completed"),
        ]  # fmt: skip
        assert (first.answered, second.answered) == (False, True)
        assert first.completion_tokens >= after
        assert (bench.record.provider, bench.record.outcome) == ("b", "completed")
        assert bench.record.completion_tokens == second.completion_tokens == 60

    @pytest.mark.parametrize(
        ("ending", "outcome"),
        [
            (lambda: spoken("openai", SEA[:2], ending="cut", last=SERVER_ERROR), "upstream_error"),
            (lambda: spoken("openai", SEA[:2], ending="close"), "upstream_truncated"),
            (lambda: spoken("openai", SEA[:2], ending="stall"), "timeout_idle"),
            (lambda: spoken("openai", SEA[:2], last=b"data: {nothing\n\n" * 4), "upstream_error"),
            (lambda: stream(delta(ROLE), delta("The") + SERVER_ERROR), "upstream_error"),
        ],
        ids=["error", "end without an end", "stall", "garbage", "error beside the first token"],
    )
    async def test_whatever_goes_wrong_is_made_again(
        self, autojump_clock: MockClock, ending: Callable[[], Script], outcome: str
    ) -> None:
        async with relay(a=ending(), b=answer(OTHER), timeouts={"idle": 3.0}) as bench:
            assert_whole(bench, await bench.ask_stream(), "Water has no end.")
        assert bench.rows_of_record == [("a", "first", outcome), ("b", "next", "completed")]

    async def test_the_same_target_is_tried_again_as_before_the_first_token(self, autojump_clock: MockClock) -> None:
        script = [spoken("openai", SEA[:2], ending="cut"), answer(OTHER)]
        async with relay(a=script, b=answer(SEA), model={"retries": 1}) as bench:
            assert_whole(bench, await bench.ask_stream(), "Water has no end.")
        assert [row[:2] for row in bench.rows_of_record] == [("a", "first"), ("a", "retry")]

    async def test_several_beginnings_may_be_thrown_away(self, autojump_clock: MockClock) -> None:
        cut = {name: spoken("openai", [name, "!"], ending="cut") for name in "abc"}
        async with relay(**cut, d=answer(SEA)) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got, "The sea is wide.")
            assert got.header("x-llm-attempts") == "4"

    async def test_nobody_left_is_a_true_status(self, autojump_clock: MockClock) -> None:
        async with relay(a=spoken("openai", SEA[:3], ending="cut"), b=openai_error(500)) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"]) == (502, "upstream_truncated")
        record = bench.record
        assert (record.outcome, record.phase, record.ttft_ms) == ("upstream_truncated", "first_token", None)
        assert [row.answered for row in record.attempts] == [False, False]
        assert record.completion_tokens == record.attempts[0].completion_tokens > 0

    async def test_policy_is_not_walked_round(self, autojump_clock: MockClock) -> None:
        refused = frame({"error": {"message": "No.", "type": "x", "code": "content_filter"}})
        async with relay(a=spoken("openai", SEA[:2], ending="cut", last=refused), b=answer(SEA)) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"], bench.times("b")) == (502, "content_filter", [])

    async def test_total_ends_it_with_a_true_status(self, autojump_clock: MockClock) -> None:
        async with relay(a=spoken("openai", SEA, pause=2.0), b=answer(SEA), timeouts={"total": 5.0}) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"], trio.current_time()) == (504, "timeout_total", 5.0)

    async def test_first_token_meets_its_deadline_though_nothing_has_been_passed_on(
        self, autojump_clock: MockClock
    ) -> None:
        deadlines = {"first_token": 2.0, "idle": 4.0}
        async with relay(a=spoken("openai", SEA, pause=1.5), b=answer(SEA), timeouts=deadlines) as bench:
            assert_whole(bench, await bench.ask_stream(), "The sea is wide.")
            assert bench.times("b") == []

    async def test_breaker_counts_it_as_a_failure(self, autojump_clock: MockClock) -> None:
        async with relay(a=spoken("openai", SEA[:3], ending="cut"), b=answer(SEA)) as bench:
            for _ in range(2):
                await bench.ask_stream()
            assert bench.gateway.routers.known["gpt-4o"].healths[0].breaker.consecutive == 2


class TestTheWindow:
    @WIRES
    async def test_ends_by_itself_when_its_time_is_up(self, autojump_clock: MockClock, wire: str) -> None:
        async with relay(wire, a=spoken(wire, SEA, pause=3.0), b=answer()) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got, "The sea is wide.")
            # The first token comes at 3; what is held is passed on at 13, and the rest as it comes.
            assert (times(got)[0], got.started_at) == (13.0, 13.0)
            assert times(got)[1] == 15.0
        assert (bench.record.ttft_ms, bench.record.outcome) == (13_000.0, "completed")

    @WIRES
    async def test_ends_by_itself_while_the_provider_is_silent(self, autojump_clock: MockClock, wire: str) -> None:
        async with relay(wire, a=spoken(wire, SEA[:2], ending="stall"), timeouts={"idle": 40.0}) as bench:
            got = await bench.ask_stream()
            at, error = in_band_error(got)
            assert (text(got), times(got)[0], at, error["code"]) == ("The sea", 11.0, 42.0, "timeout_idle")
            assert bench.released("a") == [42.0]

    async def test_nothing_is_lost_of_what_comes_as_its_time_is_up(self, autojump_clock: MockClock) -> None:
        for _ in range(10):  # which of two tasks that are due runs first is up to chance
            async with relay(a=spoken("openai", SEA, pause=5.0), b=answer()) as bench:
                got = await bench.ask_stream()
                assert_whole(bench, got, "The sea is wide.")
                assert times(got)[0] - bench.times("a")[0] == 15.0

    async def test_is_full(self, autojump_clock: MockClock) -> None:
        size = len(delta(ROLE)) + len(delta("The")) + len(delta(" sea")) + 1
        async with relay(
            a=spoken("openai", SEA), b=answer(), model={"hold_bytes": size}, targets={"a": {"model": "gpt-4o"}}
        ) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got, "The sea is wide.")
            assert times(got)[:2] == [3.0, 4.0]
            assert bench.record.ttft_ms == 3000.0

    async def test_one_byte_less_is_full_earlier(self, autojump_clock: MockClock) -> None:
        size = len(delta(ROLE)) + len(delta("The")) + len(delta(" sea"))
        async with relay(
            a=spoken("openai", SEA), b=answer(), model={"hold_bytes": size}, targets={"a": {"model": "gpt-4o"}}
        ) as bench:
            assert times(await bench.ask_stream())[:2] == [2.0, 3.0]

    @WIRES
    async def test_short_answer_leaves_when_it_is_whole(self, autojump_clock: MockClock, wire: str) -> None:
        async with relay(wire, a=spoken(wire, SEA), b=answer()) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got, "The sea is wide.")
            assert set(times(got)) == {5.0}
            assert (got.header("x-llm-provider"), got.header("x-llm-attempts")) == ("a", "1")
        assert (bench.record.ttft_ms, bench.record.duration_ms) == (5000.0, 5000.0)

    async def test_answer_without_a_token_leaves_at_once(self, autojump_clock: MockClock) -> None:
        async with relay(a=stream(delta(ROLE), STOP, DONE), b=answer(SEA)) as bench:
            assert_whole(bench, await bench.ask_stream(), "")
        assert bench.record.ttft_ms is None

    async def test_usage_is_told_once(self, autojump_clock: MockClock) -> None:
        fields = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}
        for after in (2, 20):  # within the window, and after it
            script = spoken("openai", ["x"] * 30, pause=1.0)
            cut = spoken("openai", ["x"] * after, ending="cut")
            async with relay(a=cut, b=script) as bench:
                got = await bench.ask_stream(json=fields)
                assert_whole(bench, got, "x" * 30)
                assert counted(got)["completion_tokens"] == 30

    @pytest.mark.parametrize("ending", ["whole", "cut"])
    async def test_thoughts_that_are_not_shown_are_no_beginning(self, autojump_clock: MockClock, ending: str) -> None:
        """Of a completion nothing can be passed on when the time is up; the first thing that can be then is, at once."""
        head = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": False}
        thoughts = [{**head, "response": "", "thinking": "Hm."}] * 12
        words = [{**head, "response": "The"}, {**head, "response": " sea."}, {**head, "response": "", "done": True}]
        told = [*thoughts, *(words if ending == "whole" else [])]
        steps = [Step(1, json.dumps(one).encode() + b"\n") for one in told]
        kind: Any = "close" if ending == "whole" else "cut"
        script = Script(headers=(("content-type", "application/x-ndjson"),), steps=lambda: iter(steps), ending=kind)

        def piece(text: str, finish: str | None = None) -> bytes:
            return frame({"id": "1", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": finish}]})

        async with relay("ollama", a=script, b=stream(piece("No sea."), piece("", "stop"), DONE)) as bench:
            fields = {"model": "gpt-4o", "prompt": "?", "stream": True}
            got = await bench.client.post("/v1/completions", json=fields)
            payloads = [one.payload for one in said(got) if isinstance(one.payload, dict)]
            whole = "".join(one["choices"][0]["text"] for one in payloads)
            if ending == "whole":
                assert (whole, times(got)[:2], bench.record.ttft_ms) == ("The sea.", [13.0, 14.0], 13_000.0)
            else:
                assert (whole, times(got)[0], got.header("x-llm-attempts")) == ("No sea.", 12.0, "2")

    async def test_does_not_concern_an_answer_in_one_piece(self, autojump_clock: MockClock) -> None:
        async with relay(a=openai_answer("The sea.", head_pause=1), b=answer(SEA)) as bench:
            got = await bench.ask()
            assert (got.status, got.returned_at) == (200, 1.0)


class TestAfterTheWindow:
    @WIRES
    @pytest.mark.parametrize("by", ["time", "bytes"])
    async def test_cut_is_gone_on_with(self, autojump_clock: MockClock, wire: str, by: str) -> None:
        model = {"hold_for": 1.5} if by == "time" else {"hold_bytes": 200}
        async with relay(wire, a=spoken(wire, SEA[:4], ending="cut"), b=answer(SEA), model=model) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got, "The sea is wide.")
            assert (got.header("x-llm-provider"), got.header("x-llm-attempts")) == ("a", "1")
        assert bench.rows_of_record == [("a", "first", "upstream_truncated"), ("b", "continuation", "completed")]
        assert [row.answered for row in bench.record.attempts] == [True, True]

    async def test_answer_that_goes_on_is_not_held_again(self, autojump_clock: MockClock) -> None:
        async with relay(
            a=spoken("openai", SEA[:2], ending="cut", pause=8.0), b=spoken("openai", SEA), model={"hold_for": 5.0}
        ) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got, "The sea is wide.")
            at = {text: one.at for one in said(got) for text in SEA if f"'{text}'" in str(one.payload)}
            assert [at[word] for word in SEA] == [13.0, 16.0, 19.0, 20.0, 21.0]

    async def test_one_that_says_something_else_is_one_error(self, autojump_clock: MockClock) -> None:
        async with relay(a=spoken("openai", SEA[:4], ending="cut"), b=answer(OTHER), model={"hold_for": 1.5}) as bench:
            got = await bench.ask_stream()
            assert (text(got), terminals(got)) == ("The sea is wide", ["upstream_truncated"])

    async def test_beginning_that_was_thrown_away_is_not_what_is_gone_on_with(self, autojump_clock: MockClock) -> None:
        async with relay(
            a=spoken("openai", OTHER[:2], ending="cut"), b=spoken("openai", SEA[:4], ending="cut", pause=4.0),
            c=answer(SEA),
        ) as bench:  # fmt: skip
            got = await bench.ask_stream()
            assert_whole(bench, got, "The sea is wide.")
            assert got.header("x-llm-attempts") == "2"
        assert [row[:2] for row in bench.rows_of_record] == [("a", "first"), ("b", "next"), ("c", "continuation")]


class TestHedges:
    async def test_race_is_decided_at_the_first_token(self, autojump_clock: MockClock) -> None:
        model = {"hedge_after": 3.0, "hedge_budget": 1.0}
        async with relay(
            a=answer(SEA, before=20.0, pause=0.0), b=spoken("openai", SEA, pause=2.0), model=model
        ) as bench:
            got = await bench.ask_stream()
            assert_whole(bench, got, "The sea is wide.")
            assert (bench.times("b"), bench.released("a")) == ([3.0], [5.0])
            assert set(times(got)) == {13.0}
        assert bench.rows_of_record == [("a", "first", "beaten"), ("b", "hedge", "completed")]

    @pytest.mark.parametrize("winner", ["a", "b"])
    async def test_winner_that_breaks_off_while_it_is_held(self, autojump_clock: MockClock, winner: str) -> None:
        """Who was beaten had not failed, and is asked again."""
        scripts = {
            winner: [spoken("openai", SEA[:2], pause=4.0 if winner == "a" else 1.0, ending="cut")],
            "a" if winner == "b" else "b": [answer(SEA, before=20.0, pause=0.0), answer(OTHER)],
        }
        model = {"hedge_after": 3.0, "hedge_budget": 1.0}
        async with relay(a=scripts["a"], b=scripts["b"], model=model) as bench:
            assert_whole(bench, await bench.ask_stream(), "Water has no end.")
        other = "b" if winner == "a" else "a"
        assert [(row.provider, row.outcome) for row in bench.record.attempts if row.outcome != "beaten"] == [
            (winner, "upstream_truncated"), (other, "completed"),
        ]  # fmt: skip
        assert [row.provider for row in bench.record.attempts if row.outcome == "beaten"] == [other]

    @pytest.mark.parametrize("number", range(8))  # which of two tasks that are due runs first is up to chance
    async def test_tie_leaves_no_trace_of_the_loser(self, autojump_clock: MockClock, number: int) -> None:
        model = {"hedge_after": 3.0, "hedge_budget": 1.0, "hold_for": 3.0}
        bench = relay(a=answer(SEA), b=answer(SEA), c=answer(SEA, pause=0.0), model=model, timeouts={"idle": 5.0})
        both = {name: Awaited(delta("The", id=name), delta(" sea", id=name), at_once=0) for name in "ab"}
        bench.transports |= both
        found: list[ClientAnswer] = []

        async def ask() -> None:
            found.append(await bench.ask_stream())

        async with bench, trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(4)
            for one in both.values():
                one.more()
            await trio.sleep(1)
            for one in both.values():
                one.more()
        assert_whole(bench, found[0], "The sea is wide.")
        assert times(found[0])[0] == 7.0
        outcomes = [row.outcome for row in bench.record.attempts]
        assert (sorted(outcomes[:2]), outcomes[-1]) == (["beaten", "timeout_idle"], "completed")


class TestEnds:
    @pytest.mark.parametrize("on_disconnect", ["cancel", "drain"])
    @WIRES
    async def test_client_that_leaves_while_it_is_held(
        self, autojump_clock: MockClock, wire: str, on_disconnect: str
    ) -> None:
        model = {"on_disconnect": on_disconnect}
        script = spoken(wire, SEA, pause=3.0)
        async with relay(wire, a=script, b=answer(SEA), model=model, timeouts={"abandoned": 50.0}) as bench:
            got = await bench.ask_stream(leave_after=7.0)
            assert got.chunks == []
            await trio.sleep(60)
            assert bench.released("a") == [7.0 if on_disconnect == "cancel" else 15.0]
            assert bench.times("b") == []
        record = bench.record
        assert (record.outcome, record.status, record.bytes_out) == ("client_gone", None, 0)
        assert record.completion_tokens == (5 if on_disconnect == "drain" else record.attempts[0].completion_tokens) > 0
        assert record.attempts[0].outcome == "client_gone"
        if on_disconnect == "cancel":
            assert (record.phase, record.ttft_ms) == ("first_token", None)
            assert record.detail == "the client left in phase first_token"

    async def test_client_that_leaves_in_the_instant_in_which_its_time_is_up(self, autojump_clock: MockClock) -> None:
        for _ in range(10):
            async with relay(a=spoken("openai", SEA, pause=3.0), b=answer(SEA)) as bench:
                began = trio.current_time()
                await bench.ask_stream(leave_after=13.0)
                assert bench.released("a") == [began + 13.0]
            assert bench.record.outcome == "client_gone"
            assert bench.log("bug") == []

    async def test_operator_ends_it_with_a_true_status(self, autojump_clock: MockClock) -> None:
        async with relay(a=spoken("openai", SEA, pause=3.0), b=answer(SEA)) as bench, trio.open_nursery() as nursery:

            async def ask() -> None:
                got = await bench.ask_stream(headers=[("x-request-id", "me")])
                assert (got.status, error_of(got)["code"]) == (503, "cancelled")

            nursery.start_soon(ask)
            await trio.sleep(4)
            await bench.cancel("me")
            assert bench.released("a") == [4.0]
        assert (bench.record.outcome, bench.times("b")) == ("cancelled", [])


class TestKeepAlive:
    async def test_comments_go_on_while_it_is_held(self, autojump_clock: MockClock) -> None:
        script = spoken("openai", SEA, pause=3.0)
        async with relay(a=script, b=answer(SEA), model={"keep_alive": 4.0}) as bench:
            got = await bench.ask_stream()
            assert [one.at for one in said(got) if one.payload == ": keep-alive"] == [4.0, 8.0, 12.0]
            assert (text(got), terminals(got), got.started_at) == ("The sea is wide.", ["[DONE]"], 4.0)
            assert next(one.at for one in said(got) if one.payload != ": keep-alive") == 13.0
        assert bench.record.ttft_ms == 13_000.0

    async def test_beginning_is_thrown_away_behind_a_comment(self, autojump_clock: MockClock) -> None:
        script = spoken("openai", SEA[:3], pause=3.0, ending="cut")
        async with relay(a=script, b=answer(OTHER), model={"keep_alive": 4.0}) as bench:
            got = await bench.ask_stream()
            assert (got.status, text(got), terminals(got)) == (200, "Water has no end.", ["[DONE]"])

    async def test_nobody_left_behind_a_comment_is_an_error_in_the_stream(self, autojump_clock: MockClock) -> None:
        script = spoken("openai", SEA[:3], pause=3.0, ending="cut")
        async with relay(a=script, b=openai_error(500), model={"keep_alive": 4.0}) as bench:
            got = await bench.ask_stream()
            at, error = in_band_error(got)
            assert (at, error["code"], text(got)) == (9.0, "upstream_truncated", "")


async def test_crowd_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    scripts: list[Script] = []
    for number in range(60):
        kind = number % 4
        words = SEA[: number % 5 + 1]
        scripts.append(spoken("openai", words if kind else SEA, ending=("whole", "cut", "stall", "close")[kind]))
    model = {"hold_for": 2.5, "hedge_after": 2.0, "hedge_budget": 1.0}
    async with (
        relay(a=scripts, b=answer(SEA, pause=0.5), model=model, timeouts={"idle": 4.0}) as bench,
        trio.open_nursery() as nursery,
    ):

        async def ask(number: int) -> None:
            manner: Any = {"leave_after": number % 9 / 2 + 0.5} if number % 3 == 0 else {}
            got = await bench.ask_stream(**manner)
            if not manner:
                assert_whole(bench, got, "The sea is wide.")

        for number in range(60):
            nursery.start_soon(ask, number)
    assert len(bench.records) == 60
    assert {record.outcome for record in bench.records} <= {"completed", "client_gone"}


async def test_broken_is_what_it_was_without_it(autojump_clock: MockClock) -> None:
    """The same cut, seen by who does not hold."""
    async with relay(a=broken(2, words=SEA), b=answer(OTHER), model={"continuation": "off"}) as bench:
        got = await bench.ask_stream()
        assert (text(got), terminals(got)) == ("The sea", ["upstream_truncated"])
