"""What OpenAI's chunks and answers hold, as far as anyone here needs to know. Fields that nobody reads are skipped by
the JSON reader without making objects of them; fields that services fill differently are `Any` and looked at where they
are used. A null is the same as nothing.

Source: https://platform.openai.com/docs/api-reference/chat/streaming and …/completions, and for the extras the services
named beside them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.providers.loose import count, read_leniently


class Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None  # a text; some services send the object itself


class ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: Any = None
    function: Function | None = None
    extra_content: Any = None  # Google's endpoint, and this gateway: `{"google": {"thought_signature": …}}`


class Said(msgspec.Struct, gc=False):
    """`delta` of a chunk's choice, `message` of an answer's."""

    content: Any = None  # a text, or a list of parts
    reasoning_content: Any = None  # DeepSeek, vLLM, llama.cpp
    reasoning: Any = None  # OpenRouter, Groq, vLLM
    refusal: Any = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None  # OpenAI's older form of one tool call
    thinking_blocks: Any = None  # LiteLLM, and this gateway: thoughts that the provider wants back
    annotations: Any = None  # where the text is from


class TokenDetails(msgspec.Struct, gc=False):
    cached_tokens: Any = None
    cache_write_tokens: Any = None  # OpenRouter, and this gateway
    reasoning_tokens: Any = None


class Usage(msgspec.Struct, gc=False):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None


class Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: Said | None = None
    message: Said | None = None
    text: Any = None
    logprobs: Any = None
    finish_reason: Any = None
    usage: Usage | None = None  # Moonshot, on the last choice
    error: Any = None  # OpenRouter


class GroqExtras(msgspec.Struct, gc=False):
    usage: Usage | None = None
    error: Any = None


class Answer(msgspec.Struct, gc=False):
    """A chunk of a stream, or a whole answer."""

    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None
    system_fingerprint: Any = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    x_groq: GroqExtras | None = None
    message: Any = None  # these three: the error of an older vLLM, whose `object` is "error"
    type: Any = None
    code: Any = None


_decode = msgspec.json.Decoder(Answer).decode


def read(data: bytes) -> Answer:
    """The JSON document `data`. Raises `UpstreamProtocolError` if it is none, or not of OpenAI's shape."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _read_again(data, error)


def _read_again(data: bytes, first: Exception) -> Answer:
    try:
        return msgspec.convert(read_leniently(data), Answer)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        raise UpstreamProtocolError(f"The provider sent what is not an OpenAI answer: {_reason(first)}.") from first


def _reason(error: Exception) -> str:
    """The reader's own words, which speak of places and types, never of content."""
    return str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__


def token_usage(usage: Usage) -> TokenUsage | None:
    """The counts, or None if there are none in it (`{}` in an early chunk)."""
    if usage.prompt_tokens is None and usage.completion_tokens is None and usage.total_tokens is None:
        return None
    prompt, completion = count(usage.prompt_tokens), count(usage.completion_tokens)
    sent, made = usage.prompt_tokens_details, usage.completion_tokens_details
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion if usage.total_tokens is None else count(usage.total_tokens),
        cached_tokens=count(sent.cached_tokens) if sent else 0,
        reasoning_tokens=count(made.reasoning_tokens) if made else 0,
        cache_write_tokens=count(sent.cache_write_tokens) if sent else 0,
    )
