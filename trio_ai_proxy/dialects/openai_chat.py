"""OpenAI's chat completions, as a client speaks it.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.dialects import openai_shape
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from trio_ai_proxy.chat.events import Started
    from trio_ai_proxy.chat.fold import Answer, Choice, ToolCall
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.chat.usage import TokenUsage
    from trio_ai_proxy.errors import ProxyError


class OpenAIChat:
    """See `Dialect`."""

    name = "openai_chat"
    wire = "openai"
    operation: Operation = "chat"
    terminal = openai_shape.TERMINAL
    keep_alive = openai_shape.KEEP_ALIVE

    def parse_request(self, body: bytes, *, model: str | None = None) -> ChatRequest:
        fields = openai_shape.read_object(body)
        _check_messages(fields)
        return openai_shape.read_request(fields, self.operation, model)

    def encode_error(self, error: ProxyError) -> bytes:
        return openai_shape.encode_error(error)

    def encode_stream_error(self, error: ProxyError) -> bytes:
        return openai_shape.encode_stream_error(error)

    def encode_usage(self, started: Started, usage: TokenUsage) -> bytes:
        return openai_shape.encode_usage(started, usage, "chat.completion.chunk")

    def encode_answer(self, answer: Answer) -> bytes:
        return msgspec.json.encode(openai_shape.answer_object(answer, "chat.completion", _choice))


def _check_messages(fields: dict[str, Any]) -> None:
    messages, prompt = fields.get("messages"), fields.get("prompt")
    if prompt is not None:
        what = 'both "messages" and "prompt"' if messages is not None else '"prompt"'
        raise InvalidRequest(
            f'The request body has {what}. This path is for chat and takes "messages"; "prompt" is for completions.',
            param="prompt",
        )
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest('"messages" must be a list of at least one message.', param="messages")
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest("A message must be an object.", param=f"messages.{position}")
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise InvalidRequest('A message must have a "role".', param=f"messages.{position}.role")


def _choice(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        # null, and not "", where there was no text: SDKs tell a call of tools from an empty answer by it.
        "content": choice.text or (None if choice.tool_calls or choice.refusal else ""),
        "refusal": choice.refusal or None,
    }
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        if choice.finish_reason == "function_call":  # OpenAI's older form: one call, without an id
            message["function_call"] = _function(choice.tool_calls[0])
        else:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": _function(call)} for call in choice.tool_calls
            ]
    return {"index": choice.index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


def _function(call: ToolCall) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}
