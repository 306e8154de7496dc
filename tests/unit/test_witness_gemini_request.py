"""Google's own SDK as a witness: its types take what we send, and read the recordings as we do. They refuse every field that
they do not know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from google.genai import types
from support.recordings import recordings

from trio_ai_proxy.chat.events import ReasoningDelta, TextDelta, ToolCallDelta
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

if TYPE_CHECKING:
    from support.recordings import Recording

pytestmark = pytest.mark.witness

KEY = Secret("AIza-1234567890", "a test")
ACCOUNTS = {
    "gemini": ProviderSettings(name="g", kind="gemini", api_key=KEY),
    "vertex": ProviderSettings(name="v", kind="vertex", project="p", location="global"),
}
PNG = "iVBORw0KGgo="
TOOL = {"type": "function", "function": {
    "name": "weather", "description": "Tells it.", "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False},
}}  # fmt: skip
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
        "extra_content": {"google": {"thought_signature": "c2ln"}}}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"type": "image_url", "image_url": {"url": "https://h.example/a.png"}},
            {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
            {"type": "file", "file": {"file_id": "gs://b/a.pdf"}},
        ]},
        {"role": "assistant", "content": "b", "tool_calls": [CALL],
         "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "gemini:c2ln"}]},
        {"role": "tool", "tool_call_id": "c1", "content": [
            {"type": "text", "text": "cold"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        ]},
        {"role": "user", "content": "c"},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "web_search_options": {},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "temperature": 0.5, "top_p": 0.9, "top_k": 4, "max_completion_tokens": 9, "stop": ["x"], "n": 2, "seed": 2**40,
    "presence_penalty": 1, "frequency_penalty": 1, "logprobs": True, "top_logprobs": 3, "reasoning_effort": "low",
    "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "cached_content": "cachedContents/1",
}  # fmt: skip
RECORDINGS = [
    recording for recording in recordings("gemini")
    if recording.raises is None and not any(isinstance(event, dict) for event in recording.events)
]  # fmt: skip


def sent(account: str, model: str, **fields: Any) -> dict[str, Any]:
    provider = build_provider(ACCOUNTS[account])
    request = ChatRequest("chat", "m", True, False, {**EVERYTHING, **fields})
    return json.loads(provider.prepare(request, model=model, stream=True).body)


@pytest.mark.parametrize("account", ["gemini", "vertex"])
@pytest.mark.parametrize("model", ["gemini-2.5-pro", "gemini-3-flash-preview"])
def test_types_of_the_sdk_take_the_whole_of_a_request(account: str, model: str) -> None:
    body = sent(account, model, **({"service_tier": "flex"} if account == "gemini" else {}))
    for content in [*body.pop("contents"), body.pop("systemInstruction")]:
        read = types.Content.model_validate(content)
        assert read.parts
    assert [types.Tool.model_validate(tool) for tool in body.pop("tools")]
    types.ToolConfig.model_validate(body.pop("toolConfig"))
    config = types.GenerationConfig.model_validate(body.pop("generationConfig"))
    assert config.thinking_config is not None
    assert config.seed is not None
    assert abs(config.seed) < 2**31
    assert [types.SafetySetting.model_validate(setting) for setting in body.pop("safetySettings")]
    assert body.pop("cachedContent") == "cachedContents/1"
    assert types.ServiceTier(body.pop("serviceTier", "standard"))
    assert body == {}


def test_signatures_are_where_the_sdk_looks_for_them() -> None:
    contents = [types.Content.model_validate(content) for content in sent("gemini", "gemini-3-pro-preview")["contents"]]
    spoken, called = contents[1].parts or ()
    assert (spoken.text, spoken.thought_signature) == ("b", b"sig")
    assert called.function_call is not None
    assert (called.function_call.args, called.thought_signature) == ({"city": "Oslo"}, b"sig")


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_sdk_reads_a_recording_as_we_do(recording: Recording) -> None:
    data = recording.response
    if data.startswith(b"["):
        chunks = json.loads(data)
    else:
        chunks = [json.loads(line.removeprefix(b"data: ")) for line in data.split(b"\r\n") if line]
    text = thought = ""
    calls = []
    for chunk in chunks:
        answer = types.GenerateContentResponse.model_validate(chunk)
        for candidate in answer.candidates or ():
            for part in (candidate.content.parts if candidate.content is not None else None) or ():
                if part.thought:
                    thought += part.text or ""
                elif (candidate.index or 0) == 0:
                    text += part.text or ""
                if part.function_call is not None:
                    calls.append((part.function_call.name, part.function_call.args or {}))
    events = recording.events
    ours = "".join(event.text for event in events if isinstance(event, TextDelta) and event.index == 0)
    assert ours == text or recording.name == "code_and_image"  # the SDK has parts of their own for these
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == thought
    assert [
        (event.name, json.loads(event.arguments)) for event in events if isinstance(event, ToolCallDelta)
    ] == calls  # fmt: skip
