"""What guards do to one another and to the books: several that block, and guards with bugs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import (
    QUESTION,
    ROLE,
    Bench,
    delta,
    error_of,
    in_band_error,
    said,
    stream,
    terminals,
    text,
)
from support.guarded import (
    assert_legal,
    both,
    mine,
    reasons,
    redact,
    told,
    verdict,
    watch,
)

from trio_ai_proxy.chat.events import TextDelta
from trio_ai_proxy.guards.base import Guard, Pass
from trio_ai_proxy.settings.guards import GuardSettings, HeaderChanges, JSONChanges, PatternSettings
from trio_ai_proxy.testing import openai_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.errors import GuardBlocked
    from trio_ai_proxy.guards.base import Desk, Filter, Judge, Mode, Part, Verdict, Window

STREAM = {**QUESTION, "stream": True}
ASKS_USAGE = {**STREAM, "stream_options": {"include_usage": True}}
VALIDATE = {"validate_streams": True}


class Bad:
    """A guard with a bug, in one of its parts."""

    blocked: GuardBlocked | None = None
    held = hits = failures = 0
    mode: Mode = "hold"
    window, overlap, by_sentence = 4, 0, False
    parts: frozenset[Part] = frozenset({"text"})

    def __init__(self, where: str) -> None:
        self._where = where

    def _fail(self, where: str) -> None:
        if self._where == where:
            raise ZeroDivisionError(where)

    async def enter(self, request: ChatRequest, desk: Desk) -> ChatRequest:
        self._fail("enter")
        return request

    def filter(self, request: ChatRequest) -> Filter:
        self._fail("filter")
        return self

    def feed(self, events: Sequence[Event]) -> list[Event]:
        if any(isinstance(event, TextDelta) and "three" in event.text for event in events):
            self._fail("feed")
        return list(events)

    def close(self) -> list[Event]:
        self._fail("close")
        return []

    def judge_for(self, request: ChatRequest) -> Judge:
        self._fail("judge_for")
        return self

    async def judge(self, window: Window, desk: Desk) -> Verdict:
        await trio.sleep(1.0)
        if "ree" in window.new:
            self._fail("judge")
        return Pass()

    def headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        self._fail("headers")
        return headers

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        if "ree" in json.dumps(document):
            self._fail("document")
        return document


class TestBugs:
    @pytest.mark.parametrize("asking", [QUESTION, ASKS_USAGE], ids=["whole", "stream"])
    @pytest.mark.parametrize("where", ["enter", "filter", "feed", "close", "judge_for", "judge", "headers", "document"])
    async def test_bug_is_told_once_and_leaves_nothing(
        self, autojump_clock: MockClock, where: str, asking: dict[str, Any]
    ) -> None:
        pieces = ["One. ", "Two. ", "three. ", "Four."]
        script = told(*pieces, pause=2.0) if asking is ASKS_USAGE else openai_answer("".join(pieces))
        async with Bench(script, guards=(redact(),)) as bench:
            bad = Bad(where)
            bench.gateway.planner._guards = {
                "no-mail": Guard("no-mail", "redact", on_request=bad, on_response=bad, judging=bad, reshaping=bad)
            }
            got = await bench.ask(json=asking)
            record = mine(bench)
            assert (record.outcome, len(bench.log("bug"))) == ("bug", 1)
            if got.status == 200:
                assert in_band_error(got)[1]["code"] == "internal_error"
            else:
                assert (got.status, error_of(got)["code"]) == (500, "internal_error")


class TestBooks:
    @pytest.mark.parametrize("asking", [QUESTION, STREAM], ids=["whole", "stream"])
    async def test_who_was_stopped_at_once_has_answered_nobody(
        self, autojump_clock: MockClock, asking: dict[str, Any]
    ) -> None:
        words = "anna@example.org is hers"
        script = told(words) if asking is STREAM else openai_answer(words)
        async with Bench(script, guards=(redact(action="block"),)) as bench:
            assert (await bench.ask(json=asking)).status == 400
            [row] = bench.record.attempts
            assert (row.outcome, row.answered) == ("guard", False)
            assert bench.record.completion_tokens > 0

    async def test_who_broke_off_while_all_of_it_was_held_has_answered_nobody(self, autojump_clock: MockClock) -> None:
        play = both(lambda: stream(delta(ROLE), delta("One two three"), ending="cut"), lambda _: verdict("pass", 3.0))
        async with Bench(play, guards=(watch(),)) as bench:
            assert (await bench.ask_stream()).status == 502
            [row] = mine(bench).attempts
            assert (row.outcome, row.answered) == ("upstream_truncated", False)

    @pytest.mark.parametrize("asking", [QUESTION, STREAM], ids=["whole", "stream"])
    async def test_who_passed_has_answered(self, autojump_clock: MockClock, asking: dict[str, Any]) -> None:
        play = both(
            lambda: told("One two") if asking is STREAM else openai_answer("One two"), lambda _: verdict("pass", 3.0)
        )
        async with Bench(play, guards=(watch(),)) as bench:
            assert (await bench.ask(json=asking)).status == 200
            assert [row.answered for row in mine(bench).attempts] == [True]


class TestTwoGuards:
    @pytest.mark.parametrize("on_block", ["finish", "error"])
    async def test_first_that_blocks_is_the_one_that_is_told(self, autojump_clock: MockClock, on_block: str) -> None:
        """And what a later one still holds never leaves."""
        pieces = ["Good word, ", "12", "anna@example.org bad", " more"]
        play = both(lambda: told(*pieces), lambda shown: verdict("block" if "bad" in shown else "pass", 1.0))
        numbers = GuardSettings(
            name="no-number",
            kind="redact",
            on=("response",),
            action="block",
            patterns=(PatternSettings("n", "[0-9]{9}"),),
        )
        guards = (redact(action="block", on_block=on_block), numbers, watch())
        async with Bench(play, guards=guards, server=VALIDATE) as bench:
            got = await bench.ask_stream()
            if got.status == 200:
                assert text(got) in ("", "Good word, ", "Good wor")
            else:
                assert (got.status, error_of(got)["code"]) == (400, "content_blocked")
            record = mine(bench)
            assert record.outcome == "guard"
            assert record.detail is not None
            assert "no-mail" in record.detail
            assert_legal(bench)

    async def test_both_block_at_once(self, autojump_clock: MockClock) -> None:
        play = both(
            lambda: told("A good wo", "rd or two. ", "bad words.", pause=2.0),
            lambda shown: verdict("block" if "bad" in shown else "pass", 1.0),
        )
        guards = (watch(mode="beside"), watch(name="other", mode="beside", on_block="error"))
        for _ in range(5):
            async with Bench(play, guards=guards, server=VALIDATE) as bench:
                got = await bench.ask_stream()
                assert text(got).startswith("A good word")
                assert len(terminals(got)) == 1
                ends = reasons(got)
                assert ends == ([(0, "content_filter")] if terminals(got) == ["[DONE]"] else [])
                assert mine(bench).outcome == "guard"
                assert_legal(bench)

    async def test_block_while_the_client_does_not_read(self, autojump_clock: MockClock) -> None:
        play = both(lambda: told("A good wo", "rd or two. ", "bad words."), lambda shown: verdict("block", 3.0))
        async with Bench(play, guards=(watch(mode="beside"),), server=VALIDATE) as bench:
            got = await bench.ask_stream(read_pause=10.0)
            assert reasons(got) == [(0, "content_filter")]
            [first, *_] = bench.transport.exchanges
            assert first.released_at is not None
            assert first.released_at <= 3.0
            assert_legal(bench)

    async def test_who_speaks_is_told_where_the_first_words_were_stopped(self, autojump_clock: MockClock) -> None:
        """They were on their way to a client that was still busy with a comment when a verdict stopped them."""
        script = stream((2.0, delta(ROLE) + delta("bad word")), ending="stall")
        play = both(lambda: script, lambda shown: verdict("block", 1.0))
        for mode in ("hold", "beside"):
            async with Bench(play, guards=(watch(mode=mode),), model={"keep_alive": 1.0}, server=VALIDATE) as bench:
                got = await bench.ask_stream(read_pause=4.0)
                assert text(got) in ("", "bad word")
                assert len(terminals(got)) == 1
                assert_legal(bench)


class TestReshaped:
    @pytest.mark.parametrize("where", ["finish", "error"])
    async def test_cut_stream_has_the_form_of_the_rest(self, autojump_clock: MockClock, where: str) -> None:
        form = GuardSettings(
            name="form",
            kind="response_transformer",
            response_headers=HeaderChanges(add={"x-house": "blue"}),
            json=JSONChanges(add={"house": "blue"}),
        )
        script = told("A good word, ", "anna@example.org ", "more")
        async with Bench(script, guards=(redact(action="block", on_block=where), form)) as bench:
            got = await bench.ask(json=ASKS_USAGE)
            payloads = [one.payload for one in said(got) if isinstance(one.payload, dict)]
            assert all(one["house"] == "blue" for one in payloads if "error" not in one)
            assert len(terminals(got)) == 1
            assert mine(bench).outcome == "guard"
