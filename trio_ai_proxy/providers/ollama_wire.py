"""What Ollama's lines and answers hold, as far as anyone here needs to know. Fields that nobody reads (the durations) are
skipped by the JSON reader without making objects of them. A null is the same as nothing.

Source: https://docs.ollama.com/api/chat, …/api/generate, …/api/embed, and the types of the server itself:
https://github.com/ollama/ollama/blob/main/api/types.go
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.providers.loose import count, read_leniently


class Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None  # an object


class ToolCall(msgspec.Struct, gc=False):
    id: Any = None
    function: Function | None = None


class Message(msgspec.Struct, gc=False):
    content: Any = None
    thinking: Any = None
    tool_calls: list[ToolCall] | None = None


class Line(msgspec.Struct, gc=False):
    """A line of a stream, or a whole answer: of `/api/chat` (`message`), `/api/generate` (`response`, `thinking`,
    `tool_calls`) or `/api/embed` (`embeddings`)."""

    model: Any = None
    created_at: Any = None
    message: Message | None = None
    response: Any = None
    thinking: Any = None
    tool_calls: list[ToolCall] | None = None
    logprobs: Any = None
    embeddings: Any = None
    done: Any = None
    done_reason: Any = None
    prompt_eval_count: Any = None
    prompt_eval_cached_count: Any = None
    eval_count: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(Line).decode


def read(data: bytes) -> Line:
    """The JSON document `data`. Raises `UpstreamProtocolError` if it is none, or not of Ollama's shape."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _read_again(data, error)


def _read_again(data: bytes, first: Exception) -> Line:
    try:
        return msgspec.convert(read_leniently(data), Line)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        # The reader's own words speak of places and types, never of content.
        reason = str(first) if isinstance(first, msgspec.DecodeError) else type(first).__name__
        raise UpstreamProtocolError(f"The provider sent what is not an Ollama answer: {reason}.") from first


def token_usage(line: Line) -> TokenUsage | None:
    """The counts, or None if the prompt's is missing: older servers leave it out where the prompt was in their cache
    (https://github.com/ollama/ollama/issues/2068). It holds what was read from the cache."""
    prompt = count(line.prompt_eval_count)
    if not prompt:
        return None
    completion = count(line.eval_count)
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=min(prompt, count(line.prompt_eval_cached_count)),
    )


def created(line: Line) -> int:
    """`created_at` (RFC 3339, up to nanoseconds) in whole seconds since the epoch, 0 if it is none."""
    if not isinstance(line.created_at, str):
        return 0
    try:
        return max(0, int(datetime.fromisoformat(line.created_at).timestamp()))
    except (ValueError, OverflowError, OSError):
        return 0
