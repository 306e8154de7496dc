"""What a client of OpenAI's wire sees of Cohere, Mistral and Hugging Face: recorded streams and whole answers, through the
gateway."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.exchanges import QUESTION, Bench, error_of, in_band_error, said, stream, terminals, text
from support.recordings import recordings

from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from trio.testing import MockClock

KINDS = {
    "cohere": "http://upstream.invalid",
    "mistral": "http://upstream.invalid/v1",
    "huggingface": "http://upstream.invalid",
}
TEXTS = {"cohere": "text", "mistral": "text", "huggingface": "chat_text"}
TOOLS = {"cohere": "tool_calls_parallel", "mistral": "tool_calls_parallel", "huggingface": "chat_tools"}
ERRORS = {"cohere": "error_in_the_stream", "mistral": "error_in_the_stream", "huggingface": "chat_error"}
CUTS = {"cohere": "cut_between_frames", "mistral": "cut_between_frames", "huggingface": None}
CALL = {"function": {"name": "now", "arguments": ""}, "id": "aaaaaaaaa", "type": "function"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
WHOLE: dict[str, dict[str, Any]] = {
    "cohere": {
        "id": "i", "finish_reason": "TOOL_CALL",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "Sea"}], "tool_calls": [CALL]},
        "usage": {"tokens": {"input_tokens": 3, "output_tokens": 4}},
    },
    "mistral": {
        "id": "i", "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"content": "Sea", "tool_calls": [CALL]}}],
        "usage": USAGE,
    },
    "huggingface": {
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"content": "Sea", "tool_calls": [CALL]}}],
        "usage": USAGE,
    },
}  # fmt: skip
REFUSALS = {
    "cohere": {"id": "1", "message": "too many requests"},
    "mistral": {"object": "error", "message": "too many requests", "type": "rate_limited", "code": "1300"},
    "huggingface": {"error": "too many requests", "error_type": "overloaded"},
}

VECTORS: dict[str, Any] = {
    "cohere": {"id": "e", "embeddings": {"float": [[0.5, 1], [2, 3]]}, "meta": {"billed_units": {"input_tokens": 2}}},
    "mistral": {
        "id": "e", "model": "m", "usage": {"prompt_tokens": 2, "total_tokens": 2},
        "data": [{"index": 0, "embedding": [0.5, 1]}, {"index": 1, "embedding": [2, 3]}],
    },
    "huggingface": [[0.5, 1], [2, 3]],
}  # fmt: skip


def account(kind: str) -> dict[str, Any]:
    return {"kind": kind, "base_url": KINDS[kind]}


def recorded(kind: str, name: str, *, pause: float = 0.0) -> Script:
    data = next(one.response for one in recordings(kind) if one.name == name)
    return stream(*((pause, part + b"\n\n") for part in data.split(b"\n\n") if part))


def document(body: Any, status: int = 200, **headers: str) -> Script:
    head = (("content-type", "application/json"), *((name.replace("_", "-"), value) for name, value in headers.items()))
    return Script(status=status, headers=head, steps=lambda: iter([Step(0.0, json.dumps(body).encode())]))


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    async def test_streams_text_in_its_own_time_and_reports_usage_once(
        self, autojump_clock: MockClock, kind: str
    ) -> None:
        async with Bench(recorded(kind, TEXTS[kind], pause=1.0), provider=account(kind), target="real") as bench:
            answer = await bench.ask_stream(
                json={**QUESTION, "stream": True, "stream_options": {"include_usage": True}}
            )
            assert (answer.status, terminals(answer)) == (200, ["[DONE]"])
            assert text(answer).startswith("The sea")
            chunks = [one.payload for one in said(answer)[:-1]]
            assert len({one.at for one in said(answer)}) > 2
            assert all(chunk["id"] and chunk["created"] and chunk["model"] == "gpt-4o" for chunk in chunks)
            reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
            assert [reason for reason in reasons if reason] == ["stop"]
            assert [chunk["usage"]["total_tokens"] for chunk in chunks if chunk.get("usage")] == [
                bench.record.total_tokens
            ]
        assert (bench.record.outcome, bench.record.usage_source) == ("completed", "provider")

    async def test_streams_calls_of_tools(self, autojump_clock: MockClock, kind: str) -> None:
        async with Bench(recorded(kind, TOOLS[kind]), provider=account(kind)) as bench:
            answer = await bench.ask_stream()
            calls: dict[int, dict[str, str]] = {}
            for one in said(answer)[:-1]:
                for choice in one.payload["choices"]:
                    for call in choice["delta"].get("tool_calls", ()):
                        known = calls.setdefault(call["index"], {"arguments": ""})
                        known.update({"id": call["id"], "name": call["function"]["name"]} if "id" in call else {})
                        known["arguments"] += call["function"]["arguments"]
            assert sorted(calls) == list(range(len(calls)))
            assert all(call["id"] and call["name"] for call in calls.values())
            assert all(isinstance(json.loads(call["arguments"]), dict) for call in calls.values())
            assert terminals(answer) == ["[DONE]"]

    async def test_says_an_error_inside_the_stream(self, autojump_clock: MockClock, kind: str) -> None:
        async with Bench(recorded(kind, ERRORS[kind]), provider=account(kind)) as bench:
            answer = await bench.ask_stream()
            assert text(answer) == "The"
            in_band_error(answer)
        assert bench.record.outcome == "upstream_error"

    async def test_calls_a_cut_stream_cut(self, autojump_clock: MockClock, kind: str) -> None:
        name = CUTS[kind]
        script = (
            recorded(kind, name) if name else stream(b'data: {"choices":[{"index":0,"delta":{"content":"The"}}]}\n\n')
        )
        async with Bench(script, provider=account(kind)) as bench:
            answer = await bench.ask_stream()
            in_band_error(answer)
        assert bench.record.outcome == "upstream_truncated"

    async def test_answers_in_one_piece(self, autojump_clock: MockClock, kind: str) -> None:
        async with Bench(document(WHOLE[kind]), provider=account(kind)) as bench:
            answer = (await bench.ask()).json()
            (choice,) = answer["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == ("Sea", "tool_calls")
            assert choice["message"]["tool_calls"] == [
                {"id": "aaaaaaaaa", "type": "function", "function": {"name": "now", "arguments": "{}"}}
            ]
            assert (answer["model"], answer["object"]) == ("gpt-4o", "chat.completion")
            assert {name: answer["usage"][name] for name in USAGE} == USAGE
        assert bench.record.outcome == "completed"

    @pytest.mark.parametrize("is_stream", [True, False])
    async def test_passes_a_refusal_on(self, autojump_clock: MockClock, kind: str, is_stream: bool) -> None:
        async with Bench(document(REFUSALS[kind], 429, retry_after="7"), provider=account(kind)) as bench:
            answer = await (bench.ask_stream() if is_stream else bench.ask())
            assert (answer.status, error_of(answer)["message"]) == (429, "too many requests")
            assert answer.header("retry-after") == "7"
        assert bench.record.outcome == "upstream_error"

    @pytest.mark.parametrize("form", ["float", "base64"])
    async def test_embeds(self, autojump_clock: MockClock, kind: str, form: str) -> None:
        async with Bench(document(VECTORS[kind]), provider=account(kind)) as bench:
            asked = {"model": "gpt-4o", "input": ["a", "b"], "encoding_format": form}
            answer = (await bench.client.post("/v1/embeddings", json=asked)).json()
            given = [one["embedding"] for one in answer["data"]]
            assert given == ([[0.5, 1.0], [2.0, 3.0]] if form == "float" else ["AAAAPwAAgD8=", "AAAAQAAAQEA="])
        assert bench.record.outcome == "completed"


@pytest.mark.parametrize("kind", ["cohere", "mistral"])
async def test_field_without_a_word_is_refused_before_anyone_is_asked(autojump_clock: MockClock, kind: str) -> None:
    async with Bench(document({}), provider=account(kind)) as bench:
        answer = await bench.ask(json={**QUESTION, "logit_bias": {"1": 1}})
        assert (answer.status, error_of(answer)["param"]) == (400, "logit_bias")
        assert bench.transport.exchanges == []


@pytest.mark.parametrize("kind", ["cohere", "mistral"])
async def test_field_that_is_left_out_is_named(autojump_clock: MockClock, kind: str) -> None:
    async with Bench(document(WHOLE[kind]), provider=account(kind)) as bench:
        answer = await bench.ask(json={**QUESTION, "user": "u"})
        assert answer.header("x-llm-dropped") == "user"


async def test_completion_of_a_text_server_is_openais(autojump_clock: MockClock) -> None:
    asked = {"model": "gpt-4o", "prompt": "Once", "stream": True, "stop": ["</s>"]}
    async with Bench(recorded("huggingface", "text"), provider=account("huggingface")) as bench:
        answer = await bench.client.post("/v1/completions", json=asked)
        pieces = [choice["text"] for one in said(answer)[:-1] for choice in one.payload["choices"]]
        assert ("".join(pieces), terminals(answer)) == (" The sea", ["[DONE]"])
    assert bench.record.total_tokens == 8
