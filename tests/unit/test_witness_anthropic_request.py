"""The official SDK as a witness: its own types know every field and every block that we send, and what it reads out of our
recordings is what we read.
"""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.lib.streaming import MessageStream
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from pydantic import TypeAdapter
from support.recordings import Recording, recordings

from trio_ai_proxy.chat.events import Ended, Failed
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.anthropic_request import messages_body
from trio_ai_proxy.providers.anthropic_stream import AnthropicDecoder

pytestmark = pytest.mark.witness

CACHE = {"type": "ephemeral", "ttl": "1h"}
SCHEMA = {"type": "object", "properties": {"x": {"type": "number", "minimum": 1}}, "required": ["x"]}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
TOOL = {"type": "function", "function": FUNCTION, "cache_control": CACHE}
PDF = "data:application/pdf;base64,eA=="
CALLS = [{"id": "a:1", "type": "function", "function": {"name": "f", "arguments": '{"x":2}'}}]
THOUGHTS = [
    {"type": "thinking", "thinking": "hm", "signature": "s"},
    {"type": "redacted_thinking", "data": "d"},
]
TALK = [
    {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": CACHE}]},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "hi", "cache_control": CACHE},
            {"type": "image_url", "image_url": {"url": "https://i.example/a.png"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}},
            {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}, "cache_control": CACHE},
            {"type": "file", "file": {"file_data": "data:text/plain;base64,eA=="}},
            {"type": "file", "file": {"file_data": "https://i.example/a.pdf"}},
            {"type": "file", "file": {"file_id": "file_1"}},
        ],
    },
    {"role": "developer", "content": "later"},
    {"role": "assistant", "content": "so", "thinking_blocks": THOUGHTS, "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "a:1", "content": [{"type": "text", "text": "b", "cache_control": CACHE}]},
]
LOCATION = {"type": "approximate", "approximate": {"city": "Oslo", "country": "NO"}}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [{"role": "user", "content": "hi"}], "stop": ["x"], "user": "u", "service_tier": "default"},
    "talk": {"messages": TALK, "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    "schema": {"messages": TALK, "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    "json": {"messages": TALK, "response_format": {"type": "json_object"}, "tools": [TOOL]},
    "effort": {"messages": TALK[:2], "reasoning_effort": "high", "cache_control": CACHE},
    "none": {"messages": TALK[:2], "reasoning_effort": "none"},
    "search": {"messages": TALK[:2], "web_search_options": {"user_location": LOCATION}},
    "named": {"messages": TALK[:2], "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "no tools": {"messages": TALK, "tools": [TOOL], "tool_choice": "none"},
}
MODELS = pytest.mark.parametrize("model", ["claude-opus-5", "claude-sonnet-4-5", "claude-3-7-sonnet-latest"])


def sent(model: str, fields: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    request = ChatRequest("chat", "asked", stream, False, fields)
    return messages_body(request, model=model, stream=stream, provider="anthropic")[0]


def plain(value: Any) -> Any:
    """What a check of types made of a value: its lazy lists read, which is when they are checked."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if hasattr(value, "model_dump"):
        return value.model_dump(exclude_unset=True)
    if hasattr(value, "__iter__") and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    return value


@MODELS
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_the_sdks_types_know_all_that_we_send(fields: dict[str, Any], stream: bool, model: str) -> None:
    """The check drops fields that the types do not have: nothing may be missing after it."""
    body = sent(model, fields, stream=stream)
    kind: Any = MessageCreateParamsStreaming if stream else MessageCreateParamsNonStreaming
    assert plain(TypeAdapter(kind).validate_python(body)) == body


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_the_sdk_would_send_the_same(fields: dict[str, Any]) -> None:
    body = sent("claude-opus-5", fields, stream=False)
    seen: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.url.path, json.loads(request.content)))
        return httpx2.Response(
            200, json={"content": [], "usage": {}, "id": "i", "role": "assistant", "type": "message"}
        )

    with anthropic.Anthropic(
        api_key="k", base_url="http://h", http_client=httpx2.Client(transport=httpx2.MockTransport(answer))
    ) as client:
        client.messages.create(**body)
    assert seen == [("/v1/messages", body)]


# The SDK wants what the API promises: those recordings that break a promise are ours alone to read.
BROKEN_PROMISES = {"after_the_end", "crlf_and_nulls", "half_a_pair", "no_usage", "thinking", "tool_calls_parallel"}
WHOLE = [
    recording
    for recording in recordings("anthropic")
    if Ended() in recording.events and recording.name not in BROKEN_PROMISES
]
FAILING = [recording for recording in recordings("anthropic") if recording.name.startswith("error_")]


def read_by_the_sdk(recording: Recording) -> Any:
    headers = {"content-type": "text/event-stream"}

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers=headers, content=recording.response)

    with (
        anthropic.Anthropic(
            api_key="k", base_url="http://h", http_client=httpx2.Client(transport=httpx2.MockTransport(answer))
        ) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "a"}]) as stream,
    ):
        assert isinstance(stream, MessageStream)
        return stream.get_final_message()


@pytest.mark.parametrize("recording", WHOLE, ids=lambda recording: recording.name)
def test_the_sdk_reads_what_we_read(recording: Recording) -> None:
    message = read_by_the_sdk(recording)
    decoder, fold = AnthropicDecoder(ChatRequest("chat", "m", True, False, {}), str), Fold()
    for frame in SSEFramer().feed(recording.response + b"\n\n"):
        for event in decoder.feed(frame):
            fold.add(event)
    answer = fold.answer()
    [choice] = answer.choices
    assert (answer.id, answer.model) == (message.id, message.model)
    assert choice.text == "".join(block.text for block in message.content if block.type == "text")
    assert choice.reasoning == "".join(block.thinking for block in message.content if block.type == "thinking")
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [(call.id, call.name, json.loads(call.arguments)) for call in choice.tool_calls] == [
        (block.id, block.name, block.input) for block in calls
    ]
    cited = [one for block in message.content if block.type == "text" for one in block.citations or []]
    assert [one.quote for one in choice.citations] == [one.cited_text for one in cited]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == message.usage.output_tokens


@pytest.mark.parametrize("recording", FAILING, ids=lambda recording: recording.name)
def test_the_sdk_fails_where_we_fail(recording: Recording) -> None:
    with pytest.raises(anthropic.APIError):
        read_by_the_sdk(recording)
    decoder = AnthropicDecoder(ChatRequest("chat", "m", True, False, {}), str)
    events = [event for frame in SSEFramer().feed(recording.response) for event in decoder.feed(frame)]
    assert isinstance(events[-1], Failed)
