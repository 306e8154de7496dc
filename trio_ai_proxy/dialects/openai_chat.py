"""OpenAI's chat completions, as a client speaks it.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.templates import name_in
from trio_ai_proxy.dialects import openai_shape
from trio_ai_proxy.dialects.openai_chat_stream import ChatEncoder
from trio_ai_proxy.dialects.openai_grammar import OpenAIGrammar
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from trio_ai_proxy.chat.events import Started
    from trio_ai_proxy.chat.fold import Answer, Choice, ToolCall
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.chat.usage import TokenUsage
    from trio_ai_proxy.dialects.base import StreamEncoder, StreamGrammar
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

    def encode_answer(self, answer: Answer, request: ChatRequest) -> bytes:
        choice = partial(_choice, older_calls=_speaks_of_functions(request))
        return openai_shape.encode(openai_shape.answer_object(answer, "chat.completion", choice))

    def encoder(self, started: Started, request: ChatRequest | None = None) -> StreamEncoder:
        return ChatEncoder(started, older_calls=request is not None and _speaks_of_functions(request))

    def grammar(self, *, include_usage: bool, own: bool) -> StreamGrammar:
        return OpenAIGrammar(self.operation, include_usage=include_usage, own=own)


def _check_messages(fields: dict[str, Any]) -> None:
    messages, prompt = fields.get("messages"), fields.get("prompt")
    if prompt is not None:
        what = 'both "messages" and "prompt"' if messages is not None else '"prompt"'
        raise InvalidRequest(
            f'The request body has {what}. This path is for chat and takes "messages"; "prompt" is for completions.',
            param="prompt",
        )
    if name_in(messages) is not None:
        return  # a guard puts messages in its place; where none is configured, the gateway refuses it
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest('"messages" must be a list of at least one message.', param="messages")
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest("A message must be an object.", param=f"messages.{position}")
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise InvalidRequest('A message must have a "role".', param=f"messages.{position}.role")


def _speaks_of_functions(request: ChatRequest) -> bool:
    """Whether the client knows OpenAI's older form alone: one call, without an id."""
    return bool(request.fields.get("functions")) and not request.fields.get("tools")


def _choice(choice: Choice, *, older_calls: bool) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        # null, and not "", where there was no text: SDKs tell a call of tools from an empty answer by it.
        "content": choice.text or (None if choice.tool_calls or choice.refusal else ""),
        "refusal": choice.refusal or None,
    }
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.thoughts:
        message["thinking_blocks"] = [openai_shape.thinking_block(thought) for thought in choice.thoughts]
    if choice.citations:
        message["annotations"] = [openai_shape.annotation(citation) for citation in choice.citations]
    if choice.tool_calls:
        if older_calls or choice.finish_reason == "function_call":
            message["function_call"] = _function(choice.tool_calls[0])
        else:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": _function(call),
                    **openai_shape.extra_content(call.signature),
                }
                for call in choice.tool_calls
            ]
    logprobs = {"content": choice.logprobs, "refusal": None} if choice.logprobs else None
    reason = "function_call" if older_calls and choice.finish_reason == "tool_calls" else choice.finish_reason
    return {"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _function(call: ToolCall) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}
