"""What Claude said, streamed to a client of OpenAI's and given back by it, is what Claude is told that it said."""

from __future__ import annotations

import json
from typing import Any

from support.decoding import decode_all

from trio_ai_proxy.chat.events import Started
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.providers.anthropic_request import messages_body
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

CLAUDE = build_provider(ProviderSettings(name="p", kind="anthropic", api_key=Secret("sk-ant-1234567890", "a test")))
HI = {"role": "user", "content": "hi"}
SO = {"type": "text", "text": "so it is"}
CALLED = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": [1, "é"]}}
RESULT = {"role": "tool", "tool_call_id": "toolu_1", "content": "ok"}
FIRST = {"type": "thinking", "thinking": "first of all, é\u2028", "signature": "s1"}
REDACTED = {"type": "redacted_thinking", "data": "d"}
SECOND = {"type": "thinking", "thinking": "and then", "signature": "s2"}
UNSHOWN = {"type": "thinking", "thinking": "", "signature": "s3"}


def asked(*turns: Any) -> ChatRequest:
    return ChatRequest("chat", "asked", stream=True, include_usage=False, fields={"messages": [HI, *turns]})


def given_back(turn: dict[str, Any]) -> list[dict[str, Any]]:
    """The blocks of the assistant's message that Claude gets when a client sends `turn`."""
    fields, _ = messages_body(asked(turn, RESULT), model="claude-opus-5", stream=True, provider="anthropic")
    said = fields["messages"][1]
    assert said["role"] == "assistant"
    blocks: list[dict[str, Any]] = said["content"]
    return blocks


def streamed(content: list[dict[str, Any]]) -> bytes:
    """The stream that brings `content`, in fragments of three characters."""
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": "i", "model": "m", "content": []}}]
    for index, block in enumerate(content):
        kind, deltas = block["type"], []
        match kind:
            case "thinking":
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces_of(block["thinking"])]
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
                block = {"type": kind, "thinking": "", "signature": ""}
            case "text":
                deltas = [{"type": "text_delta", "text": piece} for piece in pieces_of(block["text"])]
                block = {"type": kind, "text": ""}
            case "tool_use":
                told = pieces_of(json.dumps(block["input"]))
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in told]
                block = {**block, "input": {}}
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += ({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
        events.append({"type": "content_block_stop", "index": index})
    events += [{"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, {"type": "message_stop"}]
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in events)


def pieces_of(text: str) -> list[str]:
    return [text[at : at + 3] for at in range(0, len(text), 3)]


def gathered(stream: bytes) -> dict[str, Any]:
    """The message that a client of OpenAI's puts together from the chunks that it is sent for `stream`."""
    events, raised = decode_all(CLAUDE, asked(), stream)
    assert raised is None
    encoder = DIALECTS["llm/v1/chat"].encoder(Started("i", "m"))
    out = b"".join(encoder.feed([event]) for event in events)
    message: dict[str, Any] = {"role": "assistant", "content": "", "thinking_blocks": [], "tool_calls": []}
    for frame in out.split(b"\n\n")[:-1]:
        [choice] = json.loads(frame.removeprefix(b"data: "))["choices"]
        delta = choice["delta"]
        message["content"] += delta.get("content", "")
        message["thinking_blocks"] += delta.get("thinking_blocks", ())
        for fragment in delta.get("tool_calls", ()):
            if "id" in fragment:
                message["tool_calls"].append({key: fragment[key] for key in ("id", "type", "function")})
            else:
                message["tool_calls"][fragment["index"]]["function"]["arguments"] += fragment["function"]["arguments"]
    return message


def test_a_stream_comes_back_as_it_went() -> None:
    """A client that only gathers what it is sent gives back what was signed, to the letter."""
    content = [FIRST, REDACTED, SECOND, UNSHOWN, SO, CALLED]
    assert given_back(gathered(streamed(content))) == content


def test_thoughts_between_what_is_said_come_back_whole_and_first() -> None:
    """OpenAI's message has no order between its text and its thoughts."""
    turn = gathered(streamed([FIRST, SO, REDACTED, SECOND, CALLED]))
    assert given_back(turn) == [FIRST, REDACTED, SECOND, SO, CALLED]


def test_only_thought_comes_back_of_a_client_that_has_its_text_elsewhere() -> None:
    turn = gathered(streamed([FIRST, REDACTED, SO, CALLED]))
    turn["thinking_blocks"][0]["thinking"] = ""
    turn["reasoning_content"] = FIRST["thinking"]
    assert given_back(turn) == [FIRST, REDACTED, SO, CALLED]
