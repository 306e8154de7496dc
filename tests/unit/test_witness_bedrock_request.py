"""botocore, AWS's own SDK, is the witness: what we send fits its model of the service, and goes to the address that it would
have used; the recordings are streams that it can read."""

from __future__ import annotations

import json
from base64 import b64decode
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest
from botocore.eventstream import EventStream
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from botocore.session import Session
from botocore.validate import ParamValidator
from support.recordings import recordings

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

if TYPE_CHECKING:
    from botocore.model import OperationModel

CLAUDE = "anthropic.claude-3-7-sonnet-20250219-v1:0"
OPUS = "us.anthropic.claude-opus-4-7-v1"
LLAMA = "meta.llama3-1-70b-instruct-v1:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}, "strict": True},
    "cache_control": {"type": "ephemeral", "ttl": "1h"},
}
FORM = {"type": "json_schema", "json_schema": {"name": "thing", "description": "t", "schema": {"type": "object"}}}
LONG: list[dict[str, Any]] = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Look."},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD", "filename": "a_b.pdf"}},
            {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
        ],
    },
    {
        "role": "assistant",
        "content": "Hm.",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "QUJD"},
        ],
        "tool_calls": [{"id": "x/" * 50, "type": "function", "function": {"name": "f", "arguments": ""}}],
    },
    {"role": "tool", "tool_call_id": "x/" * 50, "content": ""},
    {"role": "user", "content": "Go on."},
]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"messages": [{"role": "user", "content": "Hello"}]},
    "sampling": {"messages": LONG[1:2], "max_tokens": 9, "temperature": 0.5, "top_p": 1, "stop": ["x"], "top_k": 5},
    "everything": {"messages": LONG, "tools": [TOOL], "tool_choice": "auto", "metadata": {"a": "b"}, "service_tier": "flex"},
    "named": {"messages": LONG, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "required": {"messages": LONG, "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": True},
    "history": {"messages": LONG},
    "schema": {"messages": LONG, "response_format": FORM},
    "schema_and_tools": {"messages": LONG, "response_format": FORM, "tools": [TOOL]},
    "object": {"messages": LONG, "response_format": {"type": "json_object"}},
    "thinking": {"messages": LONG, "reasoning_effort": "high", "response_format": FORM},
    "native": {
        "messages": LONG,
        "guardrailConfig": {"guardrailIdentifier": "abc", "guardrailVersion": "DRAFT"},
        "performanceConfig": {"latency": "optimized"},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
    },
}  # fmt: skip


@lru_cache
def operation(name: str) -> OperationModel:
    return Session().get_service_model("bedrock-runtime").operation_model(name)


def with_bytes(value: Any) -> Any:
    """What the SDK's caller hands over: bytes where the wire has base64."""
    if isinstance(value, dict):
        return {
            name: b64decode(inner) if name in ("bytes", "redactedContent") else with_bytes(inner)
            for name, inner in value.items()
        }
    return [with_bytes(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("model", [CLAUDE, OPUS, LLAMA, ARN])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_what_is_sent_is_what_the_sdk_would_send(case: str, stream: bool, model: str) -> None:
    settings = ProviderSettings(name="aws", kind="bedrock", region="us-east-1", api_key=Secret("key", "a test"))
    request = ChatRequest("chat", "m", stream, False, {"model": "m", **CASES[case]})
    sent = build_provider(settings).prepare(request, model=model, stream=stream)
    parameters = {"modelId": model, **with_bytes(json.loads(sent.body))}
    theirs = operation("ConverseStream" if stream else "Converse")
    report = ParamValidator().validate(parameters, theirs.input_shape)
    assert not report.has_errors(), report.generate_report()
    serialised = create_serializer("rest-json").serialize_to_request(parameters, theirs)
    assert sent.url == "https://bedrock-runtime.us-east-1.amazonaws.com" + serialised["url_path"]
    assert json.loads(sent.body) == json.loads(serialised["body"])


class Raw:
    """A response's body as botocore takes it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self) -> Any:
        return iter([self._data])

    def close(self) -> None:
        pass


PLAYED = [
    one for one in recordings("bedrock") if one.raises is None and not one.name.startswith(("exception", "error"))
]


@pytest.mark.parametrize("recording", PLAYED, ids=lambda recording: recording.name)
def test_recording_is_what_the_sdk_can_read(recording) -> None:
    if recording.name == "nulls_and_the_unknown":
        return  # more than the service promises
    shape = operation("ConverseStream").get_event_stream_output()
    parser = create_parser("rest-json")._event_stream_parser
    events = list(EventStream(Raw(recording.response), shape, parser, "ConverseStream"))
    assert events
    words = [event["contentBlockDelta"]["delta"].get("text", "") for event in events if "contentBlockDelta" in event]
    told = [event.text for event in recording.events if type(event).__name__ == "TextDelta"]
    assert "".join(words).startswith("".join(told))
