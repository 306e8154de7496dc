"""Guards, and answers that break off, are made again, gone on with, held or raced for: no match leaves in halves, nothing is
said twice, and a break is never told as an end."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.exchanges import (
    QUESTION,
    ROLE,
    SERVER_ERROR,
    delta,
    error_of,
    stream,
    terminals,
)
from support.failover import Relay, counted, text
from support.guarded import (
    BREAKS,
    PIECES,
    REDACTED,
    assert_legal,
    assert_whole,
    part,
    reasons,
    redact,
    shown,
    splice,
    told,
    verdict,
    watch,
)

from trio_ai_proxy.settings import Secret
from trio_ai_proxy.testing import Script, openai_answer, openai_error

if TYPE_CHECKING:
    from trio.testing import MockClock


STREAM = {**QUESTION, "stream": True}
ASKS_USAGE = {**STREAM, "stream_options": {"include_usage": True}}


@pytest.fixture(autouse=True)
def _chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)


class TestBeforeTheFirstToken:
    async def test_next_target_is_asked_and_its_answer_is_guarded(self, autojump_clock: MockClock) -> None:
        async with Relay(
            a=openai_error(503),
            b=told(*PIECES),
            guards=(redact(), watch()),
            judge=lambda _: verdict("pass", 1.0),
            server={"validate_streams": True},
            model={"retries": 0},
        ) as bench:
            got = await bench.ask(json=ASKS_USAGE)
            assert_whole(bench, got)
            assert counted(got)["completion_tokens"] == 11
        [record] = [one for one in bench.records if one.parent is None]
        assert [row.outcome for row in record.attempts] == ["upstream_error", "completed"]

    async def test_same_target_is_asked_again(self, autojump_clock: MockClock) -> None:
        async with Relay(a=[openai_error(500), told(*PIECES)], guards=(redact(),), model={"retries": 1}) as bench:
            assert_whole(bench, await bench.ask_stream())

    async def test_another_key_is_taken(self, autojump_clock: MockClock) -> None:
        keys = (Secret("sk-1", "a test"), Secret("sk-2", "a test"))
        async with Relay(
            a=[openai_error(429), told(*PIECES)],
            guards=(redact(),),
            providers={"a": {"api_key": None, "api_keys": keys}},
            model={"retries": 0},
        ) as bench:
            assert_whole(bench, await bench.ask_stream())
            assert [row.credential for row in bench.record.attempts] == [0, 1]

    async def test_whole_answer_is_made_again_where_it_broke_off(self, autojump_clock: MockClock) -> None:
        """A client that waits for the whole has been given nothing yet, whatever the guards would have seen."""
        async with Relay(
            a=openai_error(500), b=openai_answer("".join(PIECES)), guards=(redact(),), model={"retries": 0}
        ) as bench:
            got = await bench.ask()
            assert got.json()["choices"][0]["message"]["content"] == REDACTED
            assert bench.record.outcome == "completed"


class TestCut:
    @pytest.mark.parametrize("mode", ["hold", "beside"])
    async def test_what_passed_is_given_and_then_the_break_is_told(self, autojump_clock: MockClock, mode: str) -> None:
        async with Relay(
            a=part("Sunny, ", "windy, ", "wet, and", " so on", pause=2.0),
            guards=(watch(mode=mode),),
            judge=lambda _: verdict("pass", 3.0),
            model={"retries": 0},
            server={"validate_streams": True},
        ) as bench:
            got = await bench.ask_stream()
            assert text(got) == "Sunny, windy, wet, and so on"
            assert terminals(got) == ["upstream_truncated"]
            assert reasons(got) == []
            assert_legal(bench)
        [record] = [one for one in bench.records if one.parent is None]
        assert record.outcome == "upstream_truncated"

    async def test_what_is_only_held_is_no_answer(self, autojump_clock: MockClock) -> None:
        """The client has nothing of it, so it gets the true status."""
        async with Relay(
            a=part("Sun", " ", ending="cut"),
            guards=(watch(window=100),),
            judge=lambda _: verdict("pass"),
            model={"retries": 0},
        ) as bench:
            got = await bench.ask_stream()
            assert (got.status, error_of(got)["code"]) == (502, "upstream_truncated")

    async def test_half_a_match_may_leave_and_the_break_is_told(self, autojump_clock: MockClock) -> None:
        async with Relay(a=part("Half: ", "anna@exa"), guards=(redact(),), model={"retries": 0}) as bench:
            got = await bench.ask_stream()
            assert (text(got), terminals(got)) == ("Half: anna@exa", ["upstream_truncated"])


class TestSplice:
    @pytest.mark.parametrize("how", BREAKS)
    @pytest.mark.parametrize("after", [1, 2, 3, 4])
    async def test_match_across_the_break_never_leaves(self, autojump_clock: MockClock, after: int, how: str) -> None:
        manner = dict(BREAKS[how])
        if how == "error with text" and after != 2:
            manner = {"last": SERVER_ERROR}
        async with splice(
            a=part(*PIECES[:after], **manner), b=told(*PIECES), guards=(redact(),), timeouts={"idle": 8.0}
        ) as bench:
            assert_whole(bench, await bench.ask_stream())
            assert bench.record.guards[0].hits == 1

    @pytest.mark.parametrize("how", BREAKS)
    @pytest.mark.parametrize("size", [1, 3, 1000])
    async def test_match_that_blocks_across_the_break_blocks(
        self, autojump_clock: MockClock, size: int, how: str
    ) -> None:
        whole = "".join(PIECES)
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        manner = BREAKS[how] if how != "error with text" else {"last": SERVER_ERROR}
        async with splice(
            a=part(*PIECES[:2], **manner),
            b=told(*pieces),
            guards=(redact(action="block"),),
            timeouts={"idle": 8.0},
        ) as bench:
            got = await bench.ask_stream()
            assert text(got) == "My mail is "
            assert reasons(got) == [(0, "content_filter")]
            assert bench.record.outcome == "guard"
            assert_legal(bench)

    async def test_restart_that_says_something_else_ends_with_the_break(self, autojump_clock: MockClock) -> None:
        async with splice(
            a=part(*PIECES[:2]), b=told("Your", " mail is bob@example.org."), guards=(redact(),)
        ) as bench:
            got = await bench.ask_stream()
            assert text(got) == "My mail is anna@exa"
            assert terminals(got) == ["upstream_truncated"]
            assert reasons(got) == []
            assert_legal(bench)

    async def test_what_is_compared_is_what_the_provider_said(self, autojump_clock: MockClock) -> None:
        """Not what the guards made of it: another mail in the same place is another answer."""
        async with splice(
            a=part("Mail anna@example.org ", "now,"),
            b=told("Mail bob@example.org ", "now, or never."),
            guards=(redact(),),
        ) as bench:
            got = await bench.ask_stream()
            assert (text(got), terminals(got)) == ("Mail [email] now,", ["upstream_truncated"])

    async def test_prefill_goes_on_from_what_the_provider_said(self, autojump_clock: MockClock) -> None:
        def play(fields: dict[str, Any]) -> Script:
            last = fields["messages"][-1]
            if last["role"] == "assistant":
                assert last["content"] == "My mail is anna@exa"
                return told("mple.org, and", " that is all.")
            return told("Your mail is unknown.")

        async with splice(a=part(*PIECES[:2]), b=play, targets={"b": {"prefill": True}}, guards=(redact(),)) as bench:
            assert_whole(bench, await bench.ask_stream())

    @pytest.mark.parametrize("after", [1, 2, 3, 4])
    @pytest.mark.parametrize("mode", ["hold", "beside"])
    async def test_judged_answer_is_gone_on_with(self, autojump_clock: MockClock, mode: str, after: int) -> None:
        windows: list[str] = []

        def judge(fields: dict[str, Any]) -> Script:
            windows.append(shown(fields))
            return verdict("pass", 2.0)

        async with splice(
            a=part(*PIECES[:after], ending="close"), b=told(*PIECES), guards=(watch(mode=mode),), judge=judge
        ) as bench:
            got = await bench.ask(json=ASKS_USAGE)
            assert_whole(bench, got, "".join(PIECES))
            whole = "".join(PIECES)  # several are shown at once
            assert sorted(windows) == sorted(whole[start : start + 8] for start in range(0, len(whole), 8))
            assert reasons(got) == [(0, "stop")]

    async def test_other_wire_goes_on(self, autojump_clock: MockClock) -> None:
        def line(kind: str, **fields: Any) -> bytes:
            return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())

        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
        usages = {"input_tokens": 7, "output_tokens": 1}
        started = {**message, "stop_reason": None, "stop_sequence": None, "usage": usages}
        steps = [
            line("message_start", message=started),
            line("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            *(
                line("content_block_delta", index=0, delta={"type": "text_delta", "text": one})
                for one in ("My mail is an", "na@example.o", "rg, and that is all.")
            ),
            line("content_block_stop", index=0),
            line("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 9}),
            line("message_stop"),
        ]
        for guards in ((redact(),), (redact(), watch())):
            async with splice(
                a=part(*PIECES[:2]),
                b=stream(*steps),
                providers={"b": {"kind": "anthropic"}},
                guards=guards,
                judge=lambda _: verdict("pass", 1.0),
            ) as bench:
                assert_whole(bench, await bench.ask(json=ASKS_USAGE))

    async def test_values_are_put_back_across_the_break(self, autojump_clock: MockClock) -> None:
        """Neither provider sees them."""
        asking = {**STREAM, "messages": [{"role": "user", "content": "Write to anna@example.org."}]}
        async with splice(
            a=part("I wrote to [ema"),
            b=told("I wr", "ote to [email", "_1]."),
            guards=(redact(on=("request", "response"), reversible=True),),
        ) as bench:
            assert_whole(bench, await bench.ask(json=asking), "I wrote to anna@example.org.")
            assert b"anna" not in json.dumps(bench.asked("a") + bench.asked("b")).encode()

    async def test_restart_that_diverges_and_fails_at_once_fails_once(self, autojump_clock: MockClock) -> None:
        for guards in ((), (redact(),)):
            other = stream(delta(ROLE), delta("Your") + SERVER_ERROR)
            async with splice(a=part(*PIECES[:1]), b=other, guards=guards) as bench:
                got = await bench.ask_stream()
                assert (text(got), terminals(got)) == ("My mail", ["upstream_truncated"])
                assert_legal(bench)

    async def test_client_that_is_slow_is_told_nothing_twice(self, autojump_clock: MockClock) -> None:
        async with splice(a=part(*PIECES[:3]), b=told(*PIECES), guards=(redact(), watch(window=3)),
                          judge=lambda _: verdict("pass", 1.0)) as bench:  # fmt: skip
            assert_whole(bench, await bench.ask_stream(read_pause=7.0))


async def test_total_deadline_holds_where_a_judge_thinks_over_a_broken_answer(autojump_clock: MockClock) -> None:
    async with Relay(
        a=part("Sunny, a", "windy, a", "wet, and", " so on", pause=1.0),
        guards=(watch(),),
        judge=lambda fields: verdict("pass", 0.0 if "Sunny" in shown(fields) else 400.0),
        timeouts={"total": 60.0},
        model={"retries": 0},
    ) as bench:
        got = await bench.ask_stream()
        assert trio.current_time() == 60.0
        assert len(terminals(got)) == 1
        assert "[DONE]" not in terminals(got)
