"""The official SDK's client for Azure as a witness: what it sends for a request is what we send."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from support.recordings import recordings

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import Operation

pytestmark = pytest.mark.witness

KEY = "0123456789abcdef"
CHAT: dict[str, Any] = {
    "model": "dep 1",
    "messages": [{"role": "user", "content": "Größe\u2028?"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "temperature": 0.5,
}
TEXT: dict[str, Any] = {"model": "dep 1", "prompt": "Once"}
VECTORS: dict[str, Any] = {"model": "dep 1", "input": ["a"], "encoding_format": "float"}


def witness(version: str | None, operation: Operation, fields: dict[str, Any]) -> httpx2.Request:
    """The request that the SDK makes."""
    seen: list[httpx2.Request] = []

    def take(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(400, json={"error": {"message": "seen"}})

    with httpx2.Client(transport=httpx2.MockTransport(take)) as http:
        client: openai.OpenAI
        if version is None:  # by the documentation, the plain client is the one for the v1 interface
            client = openai.OpenAI(base_url="https://res.openai.azure.com/openai/v1/", api_key=KEY, http_client=http)
        else:
            client = openai.AzureOpenAI(
                azure_endpoint="https://res.openai.azure.com", api_key=KEY, api_version=version, http_client=http
            )
        makers: dict[Operation, Any] = {
            "chat": client.chat.completions, "completions": client.completions, "embeddings": client.embeddings,
        }  # fmt: skip
        with pytest.raises(openai.BadRequestError):
            makers[operation].create(**fields)
    return seen[0]


@pytest.mark.parametrize("version", [None, "2024-10-21", "2025-04-01-preview"])
@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        ("chat", CHAT),
        ("chat", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
        ("completions", TEXT),
        ("embeddings", VECTORS),
    ],
)
def test_we_send_what_the_sdk_sends(version: str | None, operation: Operation, fields: dict[str, Any]) -> None:
    asked = witness(version, operation, fields)
    account = ProviderSettings(
        name="p", kind="azure", instance="res", api_version=version, api_key=Secret(KEY, "a test"), deployment="dep 1"
    )
    streamed = bool(fields.get("stream"))
    request = ChatRequest(operation, "client's name", streamed, False, {**fields, "model": "client's name"})
    ours = build_provider(account).prepare(request, model="ignored", stream=streamed)
    assert ours.url == str(asked.url)
    assert json.loads(ours.body) == json.loads(asked.content)
    if version is not None:
        assert dict(ours.headers)[b"api-key"] == asked.headers["api-key"].encode()


@pytest.mark.parametrize("recording", recordings("azure"), ids=lambda recording: recording.name)
def test_the_sdks_types_take_every_chunk_that_we_pass_on(recording: Any) -> None:
    if recording.operation != "chat":
        return
    account = ProviderSettings(name="p", kind="azure", instance="res", api_key=Secret(KEY, "a test"))
    for frame in build_provider(account).framer().feed(recording.response):
        data = frame.raw.removeprefix(b"data: ").strip()
        if data.startswith(b'{"error"') or data == b"[DONE]":
            continue
        chunk = json.loads(data)
        if chunk["object"]:  # Azure's notes have an empty word there
            ChatCompletionChunk.model_validate(chunk)
        for choice in ChatCompletionChunk.model_construct(**chunk).choices:
            assert choice.delta is not None
