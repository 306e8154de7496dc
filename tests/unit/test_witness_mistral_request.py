"""Mistral's own SDK as a witness: its models know every word that we send, and every chunk that we recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mistralai.client.models import (
    ChatCompletionRequest,
    ChatCompletionStreamRequest,
    CompletionChunk,
    EmbeddingRequest,
    FIMCompletionRequest,
)
from support.provider_streams import asked, provider
from support.recordings import Recording, recordings

pytestmark = pytest.mark.witness

MISTRAL = provider("mistral")
CALL = {"id": "call_0123456789", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sampling": {
        "temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.2, "max_completion_tokens": 7,
        "stop": ["END"], "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2, "reasoning_effort": "high",
        "metadata": {"a": "b"}, "prompt_cache_key": "k", "service_tier": "default",
        "prediction": {"type": "content", "content": "a"}, "safe_prompt": True, "prompt_mode": "reasoning", "top_k": 3,
        "min_tokens": 1, "repetition_penalty": 1.5,
    },
    "tools": {
        "tools": [{"type": "function", "function": {"name": "weather", "description": "d", "strict": True}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "messages": [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "https://h/i.png", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_id": "f"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL],
             "thinking_blocks": [{"type": "thinking", "thinking": "plan", "signature": "mistral:s"}]},
            {"role": "tool", "tool_call_id": "call_0123456789", "content": "sunny"},
            {"role": "assistant", "content": "It is"},
        ],
    },
    "schema": {
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True, "description": "d"},
        }
    },
    "named": {
        "tools": [{"type": "function", "function": {"name": "weather"}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    },
}  # fmt: skip


def told(model: Any, body: dict[str, Any]) -> dict[str, Any]:
    """What the SDK would send for what it understood of `body`."""
    return json.loads(model.model_validate(body).model_dump_json(by_alias=True, exclude_unset=True))


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("name", REQUESTS)
def test_chat_is_one_that_the_sdk_would_send(name: str, is_stream: bool) -> None:
    body = json.loads(MISTRAL.prepare(asked(**REQUESTS[name]), model="m", stream=is_stream).body)
    assert told(ChatCompletionStreamRequest if is_stream else ChatCompletionRequest, body) == body


def test_gap_is_one_that_the_sdk_would_send() -> None:
    request = asked("completions", prompt="def f(", suffix="return", seed=1, max_tokens=3, stop="x", min_tokens=1)
    body = json.loads(MISTRAL.prepare(request, model="codestral-latest", stream=True).body)
    assert told(FIMCompletionRequest, body) == body


def test_embedding_is_one_that_the_sdk_would_send() -> None:
    request = asked("embeddings", input=["a", "b"], dimensions=256, output_dtype="float")
    body = json.loads(MISTRAL.prepare(request, model="mistral-embed", stream=False).body)
    assert told(EmbeddingRequest, body) == body


@pytest.mark.parametrize("recording", recordings("mistral"), ids=lambda recording: recording.name)
def test_recording_holds_the_sdks_chunks(recording: Recording) -> None:
    for part in recording.response.split(b"\n\n"):
        data = part.removeprefix(b"data: ")
        if data.startswith(b"{") and b'"object":"error"' not in data and data.endswith(b"}"):
            CompletionChunk.model_validate_json(data)
