"""The official client's own models as witnesses: they take what we send, and they read the recordings as we do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ollama import _types as theirs
from support.recordings import Recording, recordings

from trio_ai_proxy.chat.events import Ended, ReasoningDelta, TextDelta, ToolCallDelta
from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings

pytestmark = pytest.mark.witness

WHOLE = [one for one in recordings("ollama") if Ended() in one.events and "nulls" not in one.name]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TALK: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Where is this, and how is the weather there?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    },
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Tokyo.",
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Tokyo"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c", "content": "11 degrees"},
]


def body(operation: Operation, fields: dict[str, Any]) -> dict[str, Any]:
    provider = build_provider(ProviderSettings(name="p", kind="ollama"))
    request = ChatRequest(operation, "m", True, False, fields)
    return json.loads(provider.prepare(request, model="qwen3:8b", stream=operation != "embeddings").body)


def assert_known(model: type[Any], said: dict[str, Any]) -> None:
    """Every name that we say is one that the official client says."""
    assert said.keys() <= model.model_fields.keys()


SAMPLING = {
    "temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.2, "stop": ["a", "b"], "seed": 7,
    "max_completion_tokens": 100, "top_k": 40, "num_ctx": 4096, "repeat_penalty": 1.1,
}  # fmt: skip


def test_chat_is_one_that_the_official_client_could_have_sent() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    said = body(
        "chat",
        {
            "messages": TALK, "tools": [TOOL], "reasoning_effort": "high", "logprobs": True, "top_logprobs": 2,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            "keep_alive": "5m", **SAMPLING,
        },
    )  # fmt: skip
    assert_known(theirs.ChatRequest, said)
    assert_known(theirs.Options, said["options"])
    read = theirs.ChatRequest.model_validate(said)
    theirs.Options.model_validate(said["options"], strict=True)
    assert read.messages is not None
    assert read.tools is not None
    # Their client writes what it has read; what it knows comes out as it went in.
    written = read.model_dump(exclude_none=True)
    assert written["format"] == schema
    assert written["think"] == "high"
    assert written["stream"] is True
    assert written["tools"] == [TOOL]
    for sent, read_back in zip(said["messages"], written["messages"], strict=True):
        assert {name: value for name, value in sent.items() if name in read_back} == read_back


def test_generate_is_one_that_the_official_client_could_have_sent() -> None:
    said = body(
        "completions",
        {
            "prompt": "Once",
            "suffix": "end",
            "raw": True,
            "temperature": 1,
            "stop": "x",
            "max_tokens": 5,
            "think": False,
        },
    )
    assert_known(theirs.GenerateRequest, said)
    theirs.Options.model_validate(said["options"], strict=True)
    assert theirs.GenerateRequest.model_validate(said, strict=True).model_dump(exclude_none=True) == said


def test_embed_is_one_that_the_official_client_could_have_sent() -> None:
    said = body("embeddings", {"input": ["a", "b"], "dimensions": 256, "truncate": True, "keep_alive": 60})
    assert_known(theirs.EmbedRequest, said)
    assert theirs.EmbedRequest.model_validate(said, strict=True).model_dump(exclude_none=True) == said
    assert theirs.EmbedResponse.model_validate({"model": "m", "embeddings": [[0.5]], "prompt_eval_count": 8}).embeddings


@pytest.mark.parametrize("recording", WHOLE, ids=lambda recording: recording.name)
def test_recording_says_to_the_official_client_what_it_says_to_us(recording: Recording) -> None:
    text = thinking = ""
    calls: list[tuple[str, Any]] = []
    for line in recording.response.split(b"\n"):
        if not line.strip():
            continue
        if recording.operation == "completions":
            part = theirs.GenerateResponse.model_validate_json(line)
            text += part.response or ""
            thinking += part.thinking or ""
        else:
            found = json.loads(line)
            found.setdefault("message", {"role": "assistant"})  # servers of 2023 leave it out at the end
            for call in found["message"].get("tool_calls") or []:
                call["function"]["arguments"] = call["function"]["arguments"] or {}
            chunk = theirs.ChatResponse.model_validate(found)
            text += chunk.message.content or ""
            thinking += chunk.message.thinking or ""
            calls += [(call.function.name, call.function.arguments) for call in chunk.message.tool_calls or ()]
    events = recording.events
    assert text == "".join(event.text for event in events if isinstance(event, TextDelta))
    assert thinking == "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert calls == [(event.name, json.loads(event.arguments)) for event in events if isinstance(event, ToolCallDelta)]
