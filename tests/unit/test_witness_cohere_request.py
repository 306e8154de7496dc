"""Cohere's own SDK as a witness: it knows every word that we send, and reads in our recordings what we read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cohere
import httpx
import pytest
from cohere.types import ChatMessages, ResponseFormatV2, ToolV2
from pydantic import BaseModel, TypeAdapter
from support.provider_streams import asked, fold, play, provider
from support.recordings import Recording, recordings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.witness

COHERE = provider("cohere")
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sampling": {
        "temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.2, "max_tokens": 7, "stop": ["END"],
        "seed": 3, "logprobs": True, "reasoning_effort": "high", "k": 4, "safety_mode": "STRICT", "priority": 1,
        "citation_options": {"mode": "FAST"}, "documents": ["a"],
    },
    "tools": {
        "tools": [{"type": "function", "function": {"name": "weather", "description": "d", "strict": True}}],
        "tool_choice": "required",
        "messages": [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [
                {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://h/i.png", "detail": "low"}}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL],
             "thinking_blocks": [{"type": "thinking", "thinking": "plan", "signature": "s"}]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
            {"role": "user", "content": "Thanks"},
        ],
    },
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
}  # fmt: skip


def client(answer: bytes, content_type: str, seen: list[httpx.Request]) -> cohere.ClientV2:
    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, headers={"content-type": content_type}, content=answer)

    return cohere.ClientV2("sk-1234567890", httpx_client=httpx.Client(transport=httpx.MockTransport(reply)))


def extras(value: Any) -> Iterator[str]:
    """The fields of a model that the SDK does not know, wherever they stand."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from extras(getattr(value, name))
    elif isinstance(value, list):
        for one in value:
            yield from extras(one)


@pytest.mark.parametrize("name", REQUESTS)
def test_chat_is_one_that_the_sdk_would_send(name: str) -> None:
    ours = COHERE.prepare(asked(**REQUESTS[name]), model="command-a-03-2025", stream=True)
    body = json.loads(ours.body)
    seen: list[httpx.Request] = []
    for _ in client(b"", "text/event-stream", seen).chat_stream(**{key: body[key] for key in body if key != "stream"}):
        pass
    assert str(seen[0].url) == ours.url
    assert json.loads(seen[0].content) == body
    for annotation, part in (
        (ChatMessages, body["messages"]),
        (list[ToolV2], body.get("tools", [])),
        (ResponseFormatV2, body.get("response_format", {"type": "text"})),
    ):
        assert list(extras(TypeAdapter(annotation).validate_python(part))) == []


def test_embedding_is_one_that_the_sdk_would_send() -> None:
    request = asked("embeddings", input=["a", "b"], dimensions=256, input_type="search_query", truncate="END")
    ours = COHERE.prepare(request, model="embed-v4.0", stream=False)
    seen: list[httpx.Request] = []
    answer = b'{"id":"e","embeddings":{"float":[[0.5],[1.0]]},"texts":[],"response_type":"embeddings_by_type"}'
    client(answer, "application/json", seen).embed(**json.loads(ours.body))
    assert (str(seen[0].url), json.loads(seen[0].content)) == (ours.url, json.loads(ours.body))


VERSION_2 = [one for one in recordings("cohere") if not one.name.startswith("v1_") and one.raises is None]


@pytest.mark.parametrize("recording", VERSION_2, ids=lambda recording: recording.name)
def test_sdk_reads_in_a_recording_what_we_read(recording: Recording) -> None:
    text, thinking, plan, calls = "", "", "", []
    stream = client(recording.response, "text/event-stream", []).chat_stream(model="m", messages=[])
    for event in stream:
        message = getattr(getattr(event, "delta", None), "message", None)
        if event.type == "content-delta" and message is not None and message.content is not None:
            text += message.content.text or ""
            thinking += message.content.thinking or ""
        elif event.type == "tool-plan-delta" and message is not None:
            plan += message.tool_plan or ""
        elif event.type == "tool-call-start" and message is not None:
            calls.append([message.tool_calls.function.name, message.tool_calls.function.arguments or ""])
        elif event.type == "tool-call-delta" and message is not None and message.tool_calls is not None:
            calls[-1][1] += message.tool_calls.function.arguments or ""
    answer = fold(play(COHERE, asked(recording.operation), [recording.response])[0])
    choices = answer.choices
    assert "".join(choice.text for choice in choices) == text
    assert "".join(choice.reasoning for choice in choices) == thinking + plan
    told = [[call.name, call.arguments] for choice in choices for call in choice.tool_calls]
    assert told == [[name, arguments or "{}"] for name, arguments in calls]
