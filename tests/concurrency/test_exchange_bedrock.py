"""A client of OpenAI's, and Amazon Bedrock behind: event streams in, server-sent events out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.event_stream import EventMessage
from support.exchanges import Bench, error_of, in_band_error, said, terminals, text

from trio_ai_proxy.settings import Secret
from trio_ai_proxy.testing import Script, Step

if TYPE_CHECKING:
    from trio.testing import MockClock

RECORDINGS = Path(__file__).parent.parent / "recordings" / "bedrock"
EVENT_STREAM = (("content-type", "application/vnd.amazon.eventstream"),)
JSON = (("content-type", "application/json"),)
ACCOUNT: dict[str, Any] = {
    "kind": "bedrock",
    "base_url": None,
    "api_key": None,
    "region": "eu-west-1",
    "access_key_id": "AKIDEXAMPLE",
    "secret_access_key": Secret("wJalrXUtnFEMI", "a test"),
}
ARN = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123"
QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is the sea?"}]}


def recorded(name: str, *, piece: int = 50) -> Script:
    """A recording, in pieces that are no frames."""
    data = (RECORDINGS / name / "response.bin").read_bytes()
    pieces = [Step(0.01, data[start : start + piece]) for start in range(0, len(data), piece)]
    return Script(headers=EVENT_STREAM, steps=lambda: iter(pieces))


def once(body: dict[str, Any], *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Script:
    return Script(status=status, headers=JSON + headers, steps=lambda: iter([Step(0.0, json.dumps(body).encode())]))


def event(name: str, payload: dict[str, Any]) -> bytes:
    headers = {":message-type": "event", ":event-type": name, ":content-type": "application/json"}
    return EventMessage(headers=headers, payload=json.dumps(payload).encode()).encode()


def bench(script: Script, **more: Any) -> Bench:
    return Bench(script, provider=ACCOUNT, **{"target": ARN, **more})


async def test_text_streams_to_a_client_of_openai_s(autojump_clock: MockClock) -> None:
    async with bench(recorded("cache_usage")) as opened:
        answer = await opened.ask_stream(json={**QUESTION, "stream": True, "stream_options": {"include_usage": True}})
        assert (text(answer), terminals(answer)) == ("Yes", ["[DONE]"])
        assert said(answer)[-2].payload["usage"]["prompt_tokens"] == 1204
        assert said(answer)[-2].payload["usage"]["prompt_tokens_details"]["cached_tokens"] == 1000
        [exchange] = opened.transport.exchanges
        request = exchange.request
        path = f"/model/{ARN.replace(':', '%3A').replace('/', '%2F')}/converse-stream"
        assert request.url.raw_path.decode() == path
        assert request.url.host == "bedrock-runtime.eu-west-1.amazonaws.com"
        assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
        assert request.headers["accept"] == "application/vnd.amazon.eventstream"
    assert (opened.record.outcome, opened.record.usage_source, opened.record.prompt_tokens) == (
        "completed",
        "provider",
        1204,
    )


async def test_tools_stream_to_a_client_of_openai_s(autojump_clock: MockClock) -> None:
    async with bench(recorded("tools_parallel")) as opened:
        answer = await opened.ask_stream(json={**QUESTION, "stream": True})
        calls: dict[int, dict[str, str]] = {}
        reasons = []
        for frame in said(answer)[:-1]:
            [choice] = frame.payload["choices"]
            reasons.append(choice["finish_reason"])
            for call in choice["delta"].get("tool_calls", []):
                kept = calls.setdefault(call["index"], {"id": call.get("id", ""), "arguments": ""})
                kept["arguments"] += call["function"]["arguments"]
        assert [call["id"] for call in calls.values()] == ["tooluse_a", "tooluse_b", "tooluse_c"]
        assert [json.loads(call["arguments"]) for call in calls.values()] == [
            {"place": {"city": "Paris", "box": [[1, 2], [3, 4]]}}, {}, {},
        ]  # fmt: skip
        assert (reasons[-1], terminals(answer)) == ("tool_calls", ["[DONE]"])


async def test_thoughts_are_told_apart_from_the_text(autojump_clock: MockClock) -> None:
    async with bench(recorded("reasoning")) as opened:
        answer = await opened.ask_stream(json={**QUESTION, "stream": True})
        deltas = [frame.payload["choices"][0]["delta"] for frame in said(answer)[:-1]]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Let me think."
        assert [delta["thinking_blocks"] for delta in deltas if "thinking_blocks" in delta] == [
            [{"type": "thinking", "thinking": "Let me think.", "signature": "EuYBCkQYAiJAg1=="}]
        ]
        assert text(answer) == "42"


async def test_exception_before_the_first_token_has_its_true_status(autojump_clock: MockClock) -> None:
    async with bench(recorded("exception_first")) as opened:
        answer = await opened.ask_stream(json={**QUESTION, "stream": True})
        assert (answer.status, error_of(answer)["type"]) == (503, "serviceUnavailableException")


async def test_exception_in_the_middle_is_told_in_band_and_is_no_end(autojump_clock: MockClock) -> None:
    async with bench(recorded("exception_throttling")) as opened:
        answer = await opened.ask_stream(json={**QUESTION, "stream": True})
        assert text(answer) == "The"
        _, error = in_band_error(answer)
        assert (error["type"], error["message"]) == (
            "throttlingException",
            "Too many tokens, please wait before trying again.",
        )
    assert opened.record.outcome == "upstream_error"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("cut_between_events", "upstream_truncated"),
        ("cut_in_an_event", "upstream_truncated"),
        ("wrong_checksum", "upstream_protocol_error"),
    ],
)
async def test_broken_stream_never_looks_whole(autojump_clock: MockClock, name: str, code: str) -> None:
    async with bench(recorded(name)) as opened:
        answer = await opened.ask_stream(json={**QUESTION, "stream": True})
        assert text(answer) == "The"
        assert terminals(answer) == [code]


async def test_whole_answer_is_translated(autojump_clock: MockClock) -> None:
    content = [
        {"text": "Let me look."},
        {"toolUse": {"toolUseId": "tooluse_a", "name": "get_weather", "input": {"city": "Paris"}}},
    ]
    body = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use",
        "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
    }
    async with bench(once(body)) as opened:
        answer = await opened.ask(json=QUESTION)
        told = answer.json()
        [choice] = told["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Let me look.", "tool_calls")
        assert choice["message"]["tool_calls"][0]["function"] == {
            "name": "get_weather",
            "arguments": '{"city":"Paris"}',
        }
        assert (told["model"], told["usage"]["total_tokens"]) == ("gpt-4o", 7)
        assert told["id"].startswith("chatcmpl-")
        [exchange] = opened.transport.exchanges
        assert exchange.request.url.path.endswith("/converse")


async def test_answer_by_a_tool_is_the_client_s_text(autojump_clock: MockClock) -> None:
    block = {"toolUse": {"toolUseId": "t", "name": "json_answer", "input": {"a": 1}}}
    body = {"output": {"message": {"content": [block]}}, "stopReason": "tool_use"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    async with bench(once(body)) as opened:
        answer = await opened.ask(json={**QUESTION, "response_format": form})
        [choice] = answer.json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ('{"a":1}', "stop")
        assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_refusal_keeps_its_words_and_hides_the_key(autojump_clock: MockClock, stream: bool) -> None:
    words = {"message": "Your request was denied: wJalrXUtnFEMI"}
    head = (("x-amzn-errortype", "ThrottlingException:http://internal.amazon.com/"), ("retry-after", "3"))
    async with bench(once(words, status=429, headers=head)) as opened:
        answer = await opened.ask(json={**QUESTION, "stream": stream})
        error = error_of(answer)
        assert (answer.status, error["type"]) == (429, "ThrottlingException")
        assert error["message"] == "Your request was denied: ***"
        assert answer.header("retry-after") == "3"


@pytest.mark.parametrize("stream", [True, False])
async def test_field_without_a_word_is_named_in_the_head(autojump_clock: MockClock, stream: bool) -> None:
    body = {"output": {"message": {"content": [{"text": "Yes"}]}}, "stopReason": "end_turn"}
    async with bench(recorded("text") if stream else once(body)) as opened:
        answer = await opened.ask(json={**QUESTION, "stream": stream, "seed": 1})
        assert answer.status == 200
        assert answer.header("x-llm-dropped") == "seed"


async def test_client_that_leaves_releases_the_provider_at_once(autojump_clock: MockClock) -> None:
    def steps() -> Any:
        yield Step(0.0, event("messageStart", {"role": "assistant"}))
        while True:
            yield Step(0.1, event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "sea "}}))

    # Bedrock bills on, so "auto" would read on for the usage.
    async with bench(Script(headers=EVENT_STREAM, steps=steps), model={"on_disconnect": "cancel"}) as opened:
        began = trio.current_time()
        answer = await opened.ask_stream(json={**QUESTION, "stream": True}, leave_after=1.05)
        assert text(answer).startswith("sea ")
        await trio.sleep(0.5)
        assert opened.released_at == pytest.approx(began + 1.05, abs=0.06)
    assert opened.record.outcome == "client_gone"


async def test_embeddings_are_translated(autojump_clock: MockClock) -> None:
    script = once({"embedding": [0.5, 1], "inputTextTokenCount": 3})
    async with bench(script, target="amazon.titan-embed-text-v2:0") as opened:
        answer = await opened.client.post("/v1/embeddings", json={"model": "gpt-4o", "input": "sea"})
        told = answer.json()
        assert told["data"] == [{"object": "embedding", "index": 0, "embedding": [0.5, 1]}]
        assert told["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        refused = await opened.client.post("/v1/embeddings", json={"model": "gpt-4o", "input": ["sea", "sky"]})
        assert (refused.status, error_of(refused)["param"]) == (400, "input")
