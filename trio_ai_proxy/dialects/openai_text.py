"""OpenAI's completions, as a client speaks it.

Source: https://platform.openai.com/docs/api-reference/completions/create
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.events import Finished, RefusalDelta, TextDelta
from trio_ai_proxy.dialects import openai_shape
from trio_ai_proxy.dialects.openai_grammar import OpenAIGrammar
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.chat.events import Event, Started
    from trio_ai_proxy.chat.fold import Answer, Choice
    from trio_ai_proxy.chat.request import ChatRequest, Operation
    from trio_ai_proxy.chat.usage import TokenUsage
    from trio_ai_proxy.dialects.base import StreamEncoder, StreamGrammar
    from trio_ai_proxy.errors import ProxyError


class OpenAIText:
    """See `Dialect`."""

    name = "openai_text"
    wire = "openai"
    operation: Operation = "completions"
    terminal = openai_shape.TERMINAL
    keep_alive = openai_shape.KEEP_ALIVE

    def parse_request(self, body: bytes, *, model: str | None = None) -> ChatRequest:
        fields = openai_shape.read_object(body)
        _check_prompt(fields)
        return openai_shape.read_request(fields, self.operation, model)

    def encode_error(self, error: ProxyError) -> bytes:
        return openai_shape.encode_error(error)

    def encode_stream_error(self, error: ProxyError) -> bytes:
        return openai_shape.encode_stream_error(error)

    def encode_usage(self, started: Started, usage: TokenUsage) -> bytes:
        return openai_shape.encode_usage(started, usage, "text_completion")

    def encode_answer(self, answer: Answer, request: ChatRequest) -> bytes:
        return openai_shape.encode(openai_shape.answer_object(answer, "text_completion", _choice))

    def encoder(self, started: Started, request: ChatRequest | None = None) -> StreamEncoder:
        return TextEncoder(started)

    def grammar(self, *, include_usage: bool, own: bool) -> StreamGrammar:
        return OpenAIGrammar(self.operation, include_usage=include_usage, own=own)


def _check_prompt(fields: dict[str, Any]) -> None:
    messages, prompt = fields.get("messages"), fields.get("prompt")
    if messages is not None:
        what = 'both "messages" and "prompt"' if prompt is not None else '"messages"'
        raise InvalidRequest(
            f'The request body has {what}. This path is for completions and takes "prompt"; "messages" is for chat.',
            param="messages",
        )
    if not _is_prompt(prompt):
        raise InvalidRequest(
            '"prompt" must be a text, a list of texts, a list of token numbers or a list of such lists, and not empty.',
            param="prompt",
        )


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return bool(prompt)
    if not isinstance(prompt, list) or not prompt:
        return False
    if isinstance(prompt[0], str):
        return all(isinstance(text, str) for text in prompt)
    if isinstance(prompt[0], list):
        return all(isinstance(tokens, list) and tokens and _are_tokens(tokens) for tokens in prompt)
    return _are_tokens(prompt)


def _are_tokens(tokens: list[Any]) -> bool:
    return all(type(token) is int and token >= 0 for token in tokens)  # `type`, for True is an int


class TextEncoder:
    """Events → chunks of a streamed completion. What a completion has no place for (thoughts, calls of tools) is left out."""

    def __init__(self, started: Started) -> None:
        self._head = openai_shape.chunk_head(started, "text_completion")

    def feed(self, events: Sequence[Event]) -> bytes:
        out = []
        for event in events:
            if isinstance(event, TextDelta | RefusalDelta):
                text = openai_shape.encode(event.text)
                tail = b'{"text":%b,"index":%d,"logprobs":null,"finish_reason":null}]}\n\n' % (text, event.index)
                out.append(self._head + tail)
            elif isinstance(event, Finished):
                reason = openai_shape.encode(event.reason)
                tail = b'{"text":"","index":%d,"logprobs":null,"finish_reason":%b}]}\n\n' % (event.index, reason)
                out.append(self._head + tail)
        return b"".join(out)


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "text": choice.text + choice.refusal,
        "index": choice.index,
        "logprobs": None,
        "finish_reason": choice.finish_reason,
    }
