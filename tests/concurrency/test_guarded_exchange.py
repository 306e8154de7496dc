"""Guards in whole exchanges: what the client gets, what the books say, and that nothing is left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.exchanges import DONE, QUESTION, ROLE, STOP, Bench, delta, endless, said, stream, text, usage

from trio_ai_proxy.settings.guards import GuardSettings, HeaderChanges, JSONChanges, MessageSettings, PatternSettings
from trio_ai_proxy.testing import openai_answer, openai_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from trio.testing import MockClock

    from trio_ai_proxy.accounting.record import ExchangeRecord
    from trio_ai_proxy.testing import ClientAnswer, Script

STREAM = {**QUESTION, "stream": True}
PIECES = ["My mail", " is anna@exa", "mple.org, and", " that is all."]
REDACTED = "My mail is [email], and that is all."


def redact(**more: Any) -> GuardSettings:
    return GuardSettings(**{"name": "no-mail", "kind": "redact", "patterns": (PatternSettings("email"),), **more})


def moderate(**more: Any) -> GuardSettings:
    return GuardSettings(
        **{
            "name": "watch",
            "kind": "moderate",
            "model": "judge",
            "uses": "chat",
            "on": ("response",),
            "window": 16,
            **more,
        }
    )


def reshape(**more: Any) -> GuardSettings:
    return GuardSettings(**{"name": "form", "kind": "response_transformer", **more})


def speaking(*pieces: str) -> Script:
    """A whole stream of these pieces."""
    return stream(delta(ROLE), *map(delta, pieces), STOP, DONE)


def going_on(*pieces: str) -> Script:
    """A piece a second, and the last of them for ever."""
    return endless(lambda number: delta(pieces[min(number, len(pieces) - 1)]), pause=1.0)


def events(answer: ClientAnswer) -> list[dict[str, Any]]:
    return [one.payload for one in said(answer) if isinstance(one.payload, dict)]


def reasons(answer: ClientAnswer) -> list[str]:
    return [
        choice["finish_reason"]
        for event in events(answer)
        for choice in event.get("choices", ())
        if choice.get("finish_reason")
    ]


def both(answer: Callable[[], Script], judge: Callable[[str], Script]) -> Callable[[httpx.Request], Script]:
    """A provider of two models: "judge", which is given what it is shown, and all others."""

    def play(request: httpx.Request) -> Script:
        fields = json.loads(request.content)
        return judge(fields["messages"][-1]["content"]) if fields["model"] == "judge" else answer()

    return play


def verdict(word: str, **manner: Any) -> Script:
    return openai_answer(json.dumps({"verdict": word, "reason": "it says so"}), **manner)


def mine(bench: Bench) -> ExchangeRecord:
    [record] = [record for record in bench.records if record.parent is None]
    return record


async def test_match_cut_by_events_never_leaves(autojump_clock: MockClock) -> None:
    async with Bench(speaking(*PIECES), guards=(redact(),), server={"validate_streams": True}) as bench:
        answer = await bench.ask(json=STREAM)
        assert (answer.status, text(answer)) == (200, REDACTED)
        assert answer.body.endswith(DONE)
        [use] = bench.record.guards
        assert (use.name, use.request, use.hits, bench.record.outcome) == ("no-mail", "passed", 1, "completed")
        assert bench.log("illegal stream") == []


async def test_one_shot_answer_is_that_of_the_stream(autojump_clock: MockClock) -> None:
    async with Bench(openai_answer("".join(PIECES)), guards=(redact(),)) as bench:
        answer = await bench.ask()
        [choice] = answer.json()["choices"]
        assert choice["message"]["content"] == REDACTED


async def test_request_is_redacted_before_it_goes_out(autojump_clock: MockClock) -> None:
    asking = {**QUESTION, "messages": [{"role": "user", "content": "Write to anna@example.org."}]}
    async with Bench(openai_answer("Done."), guards=(redact(),)) as bench:
        await bench.ask(json=asking)
        [exchange] = bench.transport.exchanges
        assert b"anna" not in exchange.request.content
        assert b"[email]" in exchange.request.content
        assert bench.record.guards[0].request == "changed"


async def test_text_is_held_only_while_it_could_become_a_match(autojump_clock: MockClock) -> None:
    script = stream(delta(ROLE) + delta("Mail: anna@exa"), (5.0, delta("mple.org ")), (1.0, STOP + DONE))
    async with Bench(script, guards=(redact(),)) as bench:
        answer = await bench.ask(json=STREAM)
        assert text(answer) == "Mail: [email] "
        assert bench.record.guards[0].held_ms == 5000


async def test_block_in_mid_stream_releases_the_upstream_and_ends_with_the_guards_name(
    autojump_clock: MockClock,
) -> None:
    async with Bench(
        going_on("One", " two", " anna@example.org ", " three"), guards=(redact(action="block", on=("response",)),)
    ) as bench:
        answer = await bench.ask(json=STREAM)
        assert text(answer) == "One two "
        assert reasons(answer) == ["content_filter"]
        assert answer.body.endswith(DONE)
        assert [event["guard"] for event in events(answer) if "guard" in event] == ["no-mail"]
        record = bench.record
        assert (record.outcome, record.upstream_released_ms) == ("guard", 0)
        assert "anna" not in answer.body.decode()
        assert record.attempts[0].outcome == "guard"


async def test_block_in_mid_stream_may_end_with_an_error(autojump_clock: MockClock) -> None:
    guard = redact(action="block", on=("response",), on_block="error")
    async with Bench(going_on("One", " anna@example.org "), guards=(guard,)) as bench:
        answer = await bench.ask(json=STREAM)
        assert text(answer) == "One "
        assert events(answer)[-1]["error"]["code"] == "content_blocked"
        assert not answer.body.endswith(DONE)


@pytest.mark.parametrize("asking", [QUESTION, STREAM], ids=["whole", "stream"])
async def test_block_before_the_first_token_is_a_real_400(asking: dict[str, Any], autojump_clock: MockClock) -> None:
    play = speaking("anna@example.org ") if asking is STREAM else openai_answer("anna@example.org")
    async with Bench(play, guards=(redact(action="block", on=("response",)),)) as bench:
        answer = await bench.ask(json=asking)
        assert (answer.status, answer.json()["error"]["code"]) == (400, "content_blocked")
        assert bench.record.outcome == "guard"


async def test_refused_request_reaches_no_provider(autojump_clock: MockClock) -> None:
    guard = GuardSettings(name="no", kind="prompt_guard", deny=("sea",))
    async with Bench(openai_answer("Wide."), guards=(guard,)) as bench:
        answer = await bench.ask()
        assert (answer.status, bench.record.outcome, bench.transport.exchanges) == (400, "guard", [])
        assert bench.record.guards[0].request == "blocked"
        page = bench.gateway.metrics.render()[0].decode()
        row = 'guard_verdicts_total{guard="no",kind="prompt_guard",side="request",verdict="blocked"} 1.0'
        assert row in page


async def test_guards_run_in_their_order_on_the_way_in(autojump_clock: MockClock) -> None:
    first = GuardSettings(
        name="first", kind="decorate", append=(MessageSettings("user", "Write to anna@example.org."),)
    )
    async with Bench(openai_answer("Done."), guards=(first, redact())) as bench:
        await bench.ask()
        [exchange] = bench.transport.exchanges
        sent = json.loads(exchange.request.content)["messages"]
        assert [message["content"] for message in sent] == ["What is the sea?", "Write to [email]."]
        assert [use.request for use in bench.record.guards] == ["changed", "changed"]


async def test_nothing_leaves_before_it_is_judged(autojump_clock: MockClock) -> None:
    play = both(
        lambda: speaking("All of this ", "is a good story", ". The end."), lambda _: verdict("pass", head_pause=3.0)
    )
    async with Bench(play, guards=(moderate(),)) as bench:
        answer = await bench.ask(json=STREAM)
        assert text(answer) == "All of this is a good story. The end."
        assert answer.body.endswith(DONE)
        record = mine(bench)
        [use] = record.guards
        assert (use.windows, use.verdicts, use.calls) == (3, {"pass": 3}, 3)
        assert use.held_ms >= 3000
        assert use.tokens > 0
        assert {child.parent for child in bench.records} == {None, record.request_id}
        assert {child.guard for child in bench.records} == {None, "watch"}


async def test_verdict_against_it_cuts_what_streams_beside(autojump_clock: MockClock) -> None:
    play = both(
        lambda: going_on("Good words, and", " more good words", " and still more"),
        lambda shown: verdict("block" if "more" in shown else "pass", head_pause=0.5),
    )
    async with Bench(play, guards=(moderate(mode="beside"),)) as bench:
        answer = await bench.ask(json=STREAM)
        assert text(answer).startswith("Good words, and")
        assert reasons(answer) == ["content_filter"]
        record = mine(bench)
        assert (record.outcome, record.upstream_released_ms) == ("guard", 0)
        assert record.guards[0].verdicts["block"] == 1


async def test_judge_that_fails_closes_or_opens_as_configured(autojump_clock: MockClock) -> None:
    play = both(lambda: speaking("All is well", "."), lambda _: openai_error(500, "no"))
    async with Bench(play, guards=(moderate(on_failure="open"),)) as bench:
        answer = await bench.ask(json=STREAM)
        assert text(answer) == "All is well."
    async with Bench(play, guards=(moderate(on_failure="closed"),)) as bench:
        answer = await bench.ask(json=STREAM)
        assert answer.status >= 400
        assert mine(bench).outcome == "guard"


async def test_client_that_leaves_takes_the_judges_along(autojump_clock: MockClock) -> None:
    play = both(lambda: going_on("Some words that fill a window"), lambda _: verdict("pass", head_pause=1000.0))
    async with Bench(play, guards=(moderate(),)) as bench:
        await bench.ask(json=STREAM, leave_after=10)
        await bench.gateway.live.empty.wait()
        assert mine(bench).outcome == "client_gone"
        assert {record.outcome for record in bench.records} == {"client_gone"}


async def test_fields_and_headers_change_in_every_event_and_in_the_whole_answer(autojump_clock: MockClock) -> None:
    guard = reshape(
        response_headers=HeaderChanges(add={"x-house": "blue"}, remove=("x-llm-model",)),
        json=JSONChanges(remove=("system_fingerprint",), add={"house": "blue"}),
    )
    asking = {**STREAM, "stream_options": {"include_usage": True}}
    async with Bench(speaking("All", " well."), guards=(guard,)) as bench:
        answer = await bench.ask(json=asking)
        assert all(event["house"] == "blue" for event in events(answer))
        assert events(answer)[-1]["usage"]["total_tokens"] > 0
        assert answer.header("x-house") == "blue"
        assert answer.header("x-llm-model") is None
        assert text(answer) == "All well."
    async with Bench(openai_answer("All well."), guards=(guard,)) as bench:
        answer = await bench.ask()
        assert answer.json()["house"] == "blue"
        assert answer.header("x-house") == "blue"


async def test_all_kinds_stand_on_one_stream(autojump_clock: MockClock) -> None:
    guards = (
        GuardSettings(name="style", kind="decorate", prepend=(MessageSettings("system", "Be brief."),)),
        GuardSettings(name="words", kind="prompt_guard", deny=("forbidden",)),
        GuardSettings(name="rewrite", kind="request_transformer", model="judge", prompt="REWRITE"),
        redact(),
        moderate(),
        GuardSettings(name="louder", kind="response_transformer", model="judge", prompt="LOUDER"),
        reshape(json=JSONChanges(add={"house": "blue"})),
    )

    def play(request: httpx.Request) -> Script:
        fields = json.loads(request.content)
        if fields["model"] != "judge":
            return speaking(*PIECES)
        told = json.dumps(fields["messages"][0])
        if "REWRITE" in told:
            return openai_answer("What is your mail?")
        if "LOUDER" in told:
            return openai_answer(json.loads(fields["messages"][-1]["content"])["text"].upper())
        return verdict("pass")

    async with Bench(play, guards=guards) as bench:
        answer = await bench.ask(json=STREAM)
        assert text(answer) == REDACTED.upper()
        assert all(event["house"] == "blue" for event in events(answer))
        assert answer.body.endswith(DONE)
        asked = json.loads(bench.transport.exchanges[1].request.content)
        assert [message["content"] for message in asked["messages"]] == ["Be brief.", "What is your mail?"]
        assert [use.name for use in mine(bench).guards] == [guard.name for guard in guards]


async def test_usage_is_the_providers_whatever_the_guards_made_of_the_answer(autojump_clock: MockClock) -> None:
    asking = {**STREAM, "stream_options": {"include_usage": True}}
    script = stream(delta(ROLE), *map(delta, PIECES), STOP, usage(7, 11), DONE)
    async with Bench(script, guards=(redact(),)) as bench:
        answer = await bench.ask(json=asking)
        assert events(answer)[-1]["usage"]["completion_tokens"] == 11
        assert bench.record.usage_source == "provider"


async def test_stream_that_breaks_off_gives_what_passed_and_one_error(autojump_clock: MockClock) -> None:
    script = stream(delta(ROLE) + delta("Half of it, anna"), ending="cut")
    async with Bench(script, guards=(redact(),)) as bench:
        answer = await bench.ask(json=STREAM)
        assert text(answer) == "Half of it, anna"
        assert events(answer)[-1]["error"]["code"]
        assert not answer.body.endswith(DONE)
        assert bench.record.outcome in ("upstream_error", "upstream_truncated")
