"""What the events and answers of the Messages API hold, as far as anyone here needs to know. Fields that nobody reads are
skipped by the JSON reader without making objects of them; an event of a type that is not known may have any shape and says
nothing, as the API's versioning asks of its readers.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming and https://platform.claude.com/docs/en/api/versioning
"""

from __future__ import annotations

from typing import Any

import msgspec

from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.providers.loose import a_dict, count, read_leniently


class Usage(msgspec.Struct, gc=False):
    input_tokens: Any = None
    output_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    output_tokens_details: Any = None


class Block(msgspec.Struct, gc=False):
    """One block of an answer's content: whole in an answer, as it begins in a stream."""

    type: Any = None
    text: Any = None
    citations: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: Any = None


class Delta(msgspec.Struct, gc=False):
    """What is added to a block, or, in `message_delta`, to the whole."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    partial_json: Any = None
    citation: Any = None
    stop_reason: Any = None
    stop_details: Any = None


class Message(msgspec.Struct, gc=False):
    """A whole answer, or the empty one with which a stream begins."""

    type: Any = None
    id: Any = None
    model: Any = None
    content: list[Block] | None = None
    stop_reason: Any = None
    stop_details: Any = None
    usage: Usage | None = None
    error: Any = None


class StreamEvent(msgspec.Struct, gc=False):
    type: Any = None
    index: int | None = None
    delta: Delta | None = None
    content_block: Block | None = None
    message: Message | None = None
    usage: Usage | None = None
    error: Any = None


_KNOWN = frozenset(
    {
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop", "error",
    }
)  # fmt: skip

_decode_event = msgspec.json.Decoder(StreamEvent).decode
_decode_message = msgspec.json.Decoder(Message).decode


def read_event(data: bytes) -> StreamEvent:
    """The event `data`. Raises `UpstreamProtocolError` if it is no JSON object, or a known event of a wrong shape."""
    try:
        return _decode_event(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        first = error
    try:
        loose = read_leniently(data)
        if isinstance(loose, dict) and loose.get("type") not in _KNOWN:
            return StreamEvent(error=loose.get("error"))
        return msgspec.convert(loose, StreamEvent)
    except (ValueError, TypeError, RecursionError):  # msgspec's errors are ValueErrors; a type may be unhashable
        raise _wrong(first) from first


def read_message(body: bytes) -> Message:
    """The whole answer `body`. Raises `UpstreamProtocolError` if it is none."""
    try:
        return _decode_message(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        first = error
    try:
        return msgspec.convert(read_leniently(body), Message)
    except (ValueError, RecursionError):
        raise _wrong(first) from first


def _wrong(first: Exception) -> UpstreamProtocolError:
    """The reader's own words, which speak of places and types, never of content."""
    reason = str(first) if isinstance(first, msgspec.DecodeError) else type(first).__name__
    return UpstreamProtocolError(f"The provider sent what is not an answer of the Messages API: {reason}.")


class Count:
    """The tokens of one answer. The API's numbers are running totals: a later one takes the place of an earlier one, and
    what a later report leaves out stands."""

    __slots__ = ("_cache_read", "_cache_write", "_is_told", "_read", "_thought", "_written")

    def __init__(self) -> None:
        self._is_told = False
        self._read = self._written = self._cache_read = self._cache_write = self._thought = 0

    def add(self, usage: Usage | None, *, at_start: bool = False) -> None:
        """Take one report. What one at the start says of the answer's tokens is no count of the answer."""
        if usage is None:
            return
        if usage.input_tokens is not None:
            self._read = count(usage.input_tokens)
        if usage.output_tokens is not None and not at_start:
            self._is_told = True
            self._written = count(usage.output_tokens)
        if usage.cache_read_input_tokens is not None:
            self._cache_read = count(usage.cache_read_input_tokens)
        if usage.cache_creation_input_tokens is not None:
            self._cache_write = count(usage.cache_creation_input_tokens)
        if usage.output_tokens_details is not None:
            self._thought = count(a_dict(usage.output_tokens_details).get("thinking_tokens"))

    def at_start(self) -> TokenUsage | None:
        """The prompt alone, as it is told before the answer begins: the client may leave before the rest is told."""
        prompt = self._read + self._cache_read + self._cache_write
        if not prompt:
            return None
        return TokenUsage(prompt_tokens=prompt, cached_tokens=self._cache_read, cache_write_tokens=self._cache_write)

    def usage(self) -> TokenUsage | None:
        """What has been told, None if the answer was not counted. `input_tokens` is what was neither read from the cache nor
        written to it."""
        if not self._is_told:
            return None
        prompt = self._read + self._cache_read + self._cache_write
        return TokenUsage(
            prompt_tokens=prompt,
            completion_tokens=self._written,
            total_tokens=prompt + self._written,
            cached_tokens=self._cache_read,
            reasoning_tokens=self._thought,
            cache_write_tokens=self._cache_write,
        )
