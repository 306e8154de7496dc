"""Guards, and answers of every shape: choices, calls, thoughts, refusals, vectors, and clients that ask for each as they like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.exchanges import (
    DONE,
    QUESTION,
    ROLE,
    STOP,
    Bench,
    delta,
    frame,
    said,
    stream,
    terminals,
    text,
    usage,
)
from support.failover import Relay, ids
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

from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    import httpx
    from trio.testing import MockClock

    from trio_ai_proxy.settings.guards import GuardSettings


STREAM = {**QUESTION, "stream": True}
ASKS_USAGE = {**STREAM, "stream_options": {"include_usage": True}}
VALIDATE = {"validate_streams": True}


def chunk(index: int, content: dict[str, Any], finish: str | None = None) -> bytes:
    """A chunk of one of several choices."""
    choice = {"index": index, "delta": content, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-4o"}
    return frame({**head, "choices": [choice]})


def calls(*pieces: str) -> Script:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "mail", "arguments": ""}}
    steps = [delta({"tool_calls": [{"index": 0, "function": {"arguments": one}}]}) for one in pieces]
    return stream(
        delta(ROLE), delta({"tool_calls": [first]}), *steps, delta({}, finish="tool_calls"), usage(7, 11), DONE
    )


class TestShapes:
    @pytest.mark.parametrize("guards", [(redact(),), (redact(), watch()), (watch(mode="beside"), redact())])
    async def test_several_choices(self, autojump_clock: MockClock, guards: tuple[GuardSettings, ...]) -> None:
        steps = [chunk(index, ROLE) for index in (0, 1)]
        for piece in ("My mail", " is anna@exa", "mple.org, and", " that is all."):
            steps += [chunk(1, {"content": piece}), chunk(0, {"content": piece})]
        steps += [chunk(0, {}, "stop"), chunk(1, {}, "stop"), usage(7, 11), DONE]
        play = both(lambda: stream(*steps), lambda _: verdict("pass", 1.0))
        async with Bench(play, guards=guards, server=VALIDATE) as bench:
            got = await bench.ask(json={**ASKS_USAGE, "n": 2})
            for index in (0, 1):
                pieces = [
                    choice["delta"].get("content") or ""
                    for one in said(got)
                    if isinstance(one.payload, dict)
                    for choice in one.payload.get("choices", ())
                    if choice["index"] == index
                ]
                assert "".join(pieces) == "My mail is [email], and that is all."
            assert sorted(reasons(got)) == [(0, "stop"), (1, "stop")]
            assert terminals(got) == ["[DONE]"]
            assert_legal(bench)

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    @pytest.mark.parametrize("judged", [False, True])
    async def test_block_of_one_choice_does_not_end_the_other_twice(
        self, autojump_clock: MockClock, order: tuple[int, int], judged: bool
    ) -> None:
        good, bad = order
        steps = [
            chunk(good, {**ROLE, "content": "All is well."}), chunk(good, {}, "stop"),
            (5.0, chunk(bad, {**ROLE, "content": "anna@example.org is bad"})),
        ]  # fmt: skip
        play = both(
            lambda: stream(*steps, ending="stall"), lambda shown: verdict("block" if "bad" in shown else "pass")
        )
        guard = watch(window=100) if judged else redact(action="block")
        async with Bench(play, guards=(guard,), server=VALIDATE) as bench:
            if judged:
                steps.append(chunk(bad, {}, "stop"))
            got = await bench.ask(json={**STREAM, "n": 2})
            assert sorted(reasons(got)) == sorted([(good, "stop"), (bad, "content_filter")])
            assert terminals(got) == ["[DONE]"]
            assert mine(bench).outcome == "guard"
            assert_legal(bench)

    @pytest.mark.parametrize("guards", [(redact(),), (redact(), watch()), (watch(mode="beside"), redact())])
    async def test_calls_of_tools(self, autojump_clock: MockClock, guards: tuple[GuardSettings, ...]) -> None:
        play = both(lambda: calls('{"to":"anna', "@example", '.org","n":1}'), lambda _: verdict("pass", 1.0))
        async with Bench(play, guards=guards, server=VALIDATE) as bench:
            got = await bench.ask(json=ASKS_USAGE)
            arguments = "".join(
                call["function"].get("arguments", "")
                for one in said(got)
                if isinstance(one.payload, dict)
                for choice in one.payload.get("choices", ())
                for call in choice["delta"].get("tool_calls") or ()
            )
            assert json.loads(arguments) == {"to": "[email]", "n": 1}
            assert reasons(got) == [(0, "tool_calls")]
            assert_legal(bench)

    async def test_cut_call_is_no_call(self, autojump_clock: MockClock) -> None:
        async with Bench(
            calls('{"to":"anna', "@example", '.org","n":1}'), guards=(redact(action="block"),), server=VALIDATE
        ) as bench:
            got = await bench.ask(json=ASKS_USAGE)
            assert reasons(got) == [(0, "content_filter")]
            assert b"anna" not in got.body
            assert_legal(bench)

    @pytest.mark.parametrize("guards", [(redact(),), (redact(), watch()), (watch(mode="beside"), redact())])
    async def test_thought_then_refusal(self, autojump_clock: MockClock, guards: tuple[GuardSettings, ...]) -> None:
        steps = [
            delta({"role": "assistant", "reasoning_content": "Think of anna@exa"}),
            delta({"reasoning_content": "mple.org first."}),
            delta({"refusal": "No bob@exam"}),
            delta({"refusal": "ple.org for you."}),
        ]
        play = both(lambda: stream(*steps, STOP, DONE), lambda _: verdict("pass", 1.0))
        async with Bench(play, guards=guards, server=VALIDATE) as bench:
            got = await bench.ask_stream()
            deltas = [
                choice["delta"]
                for one in said(got)
                if isinstance(one.payload, dict)
                for choice in one.payload.get("choices", ())
            ]
            assert "".join(one.get("reasoning_content") or "" for one in deltas) == "Think of [email] first."
            assert "".join(one.get("refusal") or "" for one in deltas) == "No [email] for you."
            assert_legal(bench)

    @pytest.mark.parametrize("reported", [True, False])
    @pytest.mark.parametrize("asked", [True, False])
    @pytest.mark.parametrize("blocked", [True, False])
    async def test_usage_is_told_to_who_asked(
        self, autojump_clock: MockClock, reported: bool, asked: bool, blocked: bool
    ) -> None:
        pieces = [delta("A word, "), delta("anna@example.org "), delta("and more.")]
        script = stream(delta(ROLE), *pieces, STOP, *([usage(7, 11)] if reported else []), DONE)
        guard = redact(action="block" if blocked else "replace")
        async with Bench(script, guards=(guard,), server=VALIDATE) as bench:
            got = await bench.ask(json=ASKS_USAGE if asked else STREAM)
            told_usage = [
                one.payload for one in said(got) if isinstance(one.payload, dict) and one.payload.get("usage")
            ]
            assert len(told_usage) == asked
            assert len(ids(got)) == 1
            assert terminals(got) == ["[DONE]"]
            if asked:
                assert told_usage[0]["usage"]["completion_tokens"] == mine(bench).completion_tokens
            assert_legal(bench)

    async def test_client_that_has_to_take_a_stream(self, autojump_clock: MockClock) -> None:
        async with Bench(
            told("Mail anna@exa", "mple.org."),
            guards=(redact(),), model={"response_streaming": "always"}, server=VALIDATE,
        ) as bench:  # fmt: skip
            got = await bench.ask()
            assert (text(got), terminals(got)) == ("Mail [email].", ["[DONE]"])
            assert_legal(bench)

    @pytest.mark.parametrize("guards", [(redact(),), (redact(), watch())])
    @pytest.mark.parametrize("streams", [True, False])
    async def test_provider_that_never_streams(
        self, autojump_clock: MockClock, streams: bool, guards: tuple[GuardSettings, ...]
    ) -> None:
        document = json.dumps([{"generated_text": "Mail anna@example.org."}]).encode()
        script = Script(headers=(("content-type", "application/json"),), steps=lambda: iter([Step(0.0, document)]))
        async with Relay(
            a=script,
            providers={"a": {"kind": "llama2", "format": "raw"}},
            guards=guards,
            judge=lambda _: verdict("pass", 1.0),
            server=VALIDATE,
            model={"retries": 0},
        ) as bench:
            got = await bench.ask(json=ASKS_USAGE if streams else QUESTION)
            assert got.status == 200, got.body
            if streams:
                assert (text(got).strip(), terminals(got)) == ("Mail [email].", ["[DONE]"])
                assert len(ids(got)) == 1
                created = {one.payload["created"] for one in said(got) if isinstance(one.payload, dict)}
                assert len(created) == 1
            else:
                assert got.json()["choices"][0]["message"]["content"].strip() == "Mail [email]."
            assert_legal(bench)

    async def test_completions_speak_their_own_dialect(self, autojump_clock: MockClock) -> None:
        def line(text: str, finish: str | None = None) -> bytes:
            head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-4o"}
            return frame({**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]})

        asking = {"model": "gpt-4o", "prompt": "Whose mail?", "stream": True}
        script = stream(line("It is anna@exa"), line("mple.org."), line("", "stop"), DONE)
        for action in ("replace", "block"):
            async with Bench(script, guards=(redact(action=action),), server=VALIDATE) as bench:
                got = await bench.client.post("/v1/completions", json=asking)
                pieces = [one.payload["choices"][0]["text"] for one in said(got) if isinstance(one.payload, dict)]
                ends = [
                    one.payload["choices"][0]["finish_reason"] for one in said(got) if isinstance(one.payload, dict)
                ]
                assert "".join(pieces) == ("It is [email]." if action == "replace" else "It is ")
                assert ends[-1] == ("stop" if action == "replace" else "content_filter")
                assert got.body.endswith(DONE)
                assert_legal(bench)

    async def test_vectors_pass_every_guard(self, autojump_clock: MockClock) -> None:
        data = [{"object": "embedding", "index": n, "embedding": [0.25 * n, 1.5]} for n in (0, 1)]
        body = {"object": "list", "data": data, "model": "gpt-4o", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        seen: list[dict[str, Any]] = []

        def play(request: httpx.Request) -> Script:
            fields = json.loads(request.content)
            if fields["model"] == "judge":
                return verdict("pass")
            seen.append(fields)
            steps = [Step(0.0, json.dumps(body).encode())]
            return Script(headers=(("content-type", "application/json"),), steps=lambda: iter(steps))

        guards = (redact(on=("request", "response")), watch(on=("request", "response")))
        async with Bench(play, guards=guards, target="text-embedding-3-small") as bench:
            asking = {"model": "gpt-4o", "input": ["Mail anna@example.org.", "Or not."]}
            got = await bench.client.post("/v1/embeddings", json=asking)
            assert got.json() == body
            assert seen[0]["input"] == ["Mail [email].", "Or not."]
            assert mine(bench).outcome == "completed"
