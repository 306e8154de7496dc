"""Requests for Amazon Bedrock: what the tests of its provider ask, and what is sent for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.providers.bedrock import BedrockProvider
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import UpstreamRequest

CLAUDE = "anthropic.claude-3-7-sonnet-20250219-v1:0"
OPUS = "us.anthropic.claude-opus-4-7-v1"
NOVA = "amazon.nova-2-lite-v1:0"
LLAMA = "meta.llama3-1-70b-instruct-v1:0"
OSS = "openai.gpt-oss-120b-1:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
HELLO = [{"role": "user", "content": "Hello"}]
PNG = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
SPEC = {"toolSpec": {"name": "get_weather", "inputSchema": {"json": {"type": "object"}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORM = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
CALLED = {
    "role": "assistant",
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"a": 1}'}}],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


def provider(environment: dict[str, str] | None = None, **settings: Any) -> BedrockProvider:
    given = {
        "region": "us-east-1",
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": Secret("wJalrXUtnFEMI", "a test"),
        "environment": environment or {},
        **settings,
    }
    made = build_provider(ProviderSettings(name="aws", kind="bedrock", **given))
    assert isinstance(made, BedrockProvider)
    return made


def asked(operation: Any = "chat", unsupported: Any = "auto", **fields: Any) -> ChatRequest:
    whole = {"model": "m", **({"messages": HELLO} if operation == "chat" else {}), **fields}
    return ChatRequest(operation, "m", False, False, whole, unsupported)


def prepare(
    *, model: str = CLAUDE, stream: bool = False, operation: Any = "chat", unsupported: Any = "auto", **fields: Any
) -> UpstreamRequest:
    return provider().prepare(asked(operation, unsupported, **fields), model=model, stream=stream)


def body(**given: Any) -> dict[str, Any]:
    return json.loads(prepare(**given).body)  # type: ignore[no-any-return]  # an object


def messages(*turns: dict[str, Any], **given: Any) -> list[dict[str, Any]]:
    return body(messages=list(turns), **given)["messages"]  # type: ignore[no-any-return]  # a list


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}
