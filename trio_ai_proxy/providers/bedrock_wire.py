"""What Converse's events and answers hold, as far as anyone here needs to know. Fields that nobody reads are skipped by the
JSON reader; a null is the same as nothing.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStreamOutput.html and …_Converse.html
"""

from __future__ import annotations

from typing import Any

import msgspec

from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.providers.loose import count, read_leniently

# -- events of a stream -----------------------------------------------------------------------------------------------


class ToolStart(msgspec.Struct, gc=False, rename="camel"):
    tool_use_id: Any = None
    name: Any = None
    type: Any = None  # "server_tool_use": Bedrock runs it itself


class Start(msgspec.Struct, gc=False, rename="camel"):
    tool_use: ToolStart | None = None


class BlockStart(msgspec.Struct, gc=False, rename="camel"):
    start: Start | None = None
    content_block_index: Any = None


class ToolInput(msgspec.Struct, gc=False, rename="camel"):
    input: Any = None


class Reasoning(msgspec.Struct, gc=False, rename="camel"):
    text: Any = None
    signature: Any = None
    redacted_content: Any = None  # base64


class Delta(msgspec.Struct, gc=False, rename="camel"):
    text: Any = None
    tool_use: ToolInput | None = None
    reasoning_content: Reasoning | None = None
    citation: Any = None


class BlockDelta(msgspec.Struct, gc=False, rename="camel"):
    delta: Delta | None = None
    content_block_index: Any = None


class BlockStop(msgspec.Struct, gc=False, rename="camel"):
    content_block_index: Any = None


class MessageStop(msgspec.Struct, gc=False, rename="camel"):
    stop_reason: Any = None


class Usage(msgspec.Struct, gc=False, rename="camel"):
    input_tokens: Any = None
    output_tokens: Any = None
    total_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_write_input_tokens: Any = None


class Metadata(msgspec.Struct, gc=False, rename="camel"):
    usage: Usage | None = None


# -- a whole answer ---------------------------------------------------------------------------------------------------


class ReasoningBlock(msgspec.Struct, gc=False, rename="camel"):
    reasoning_text: Reasoning | None = None
    redacted_content: Any = None


class ToolUse(msgspec.Struct, gc=False, rename="camel"):
    tool_use_id: Any = None
    name: Any = None
    input: Any = None
    type: Any = None


class CitedContent(msgspec.Struct, gc=False, rename="camel"):
    content: Any = None
    citations: Any = None


class Block(msgspec.Struct, gc=False, rename="camel"):
    text: Any = None
    tool_use: ToolUse | None = None
    reasoning_content: ReasoningBlock | None = None
    citations_content: CitedContent | None = None


class Message(msgspec.Struct, gc=False, rename="camel"):
    content: list[Block] | None = None


class Output(msgspec.Struct, gc=False, rename="camel"):
    message: Message | None = None


class Answer(msgspec.Struct, gc=False, rename="camel"):
    output: Output | None = None
    stop_reason: Any = None
    usage: Usage | None = None
    refused: Any = msgspec.field(
        default=None, name="Output"
    )  # where the path names no operation, AWS says so with status 200, in here
    message: Any = None


class Reader:
    """Reads documents of one shape."""

    __slots__ = ("_decode", "_shape")

    def __init__(self, shape: type[Any]) -> None:
        self._shape = shape
        self._decode = msgspec.json.Decoder(shape).decode

    def __call__(self, data: bytes) -> Any:
        """The document `data`. Raises `UpstreamProtocolError` if it is none, or not of that shape."""
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return self._read_again(data, error)

    def _read_again(self, data: bytes, first: Exception) -> Any:
        try:
            return msgspec.convert(read_leniently(data), self._shape)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            reason = str(first) if isinstance(first, msgspec.DecodeError) else type(first).__name__
            raise UpstreamProtocolError(f"The provider sent what is not an answer of Converse: {reason}.") from first


def token_usage(usage: Usage) -> TokenUsage | None:
    """The counts, or None if there are none. Converse counts what it read from or wrote into its cache apart from the
    rest of the input."""
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    read, written = count(usage.cache_read_input_tokens), count(usage.cache_write_input_tokens)
    prompt, completion = count(usage.input_tokens) + read + written, count(usage.output_tokens)
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=max(prompt + completion, count(usage.total_tokens)),
        cached_tokens=read,
        cache_write_tokens=written,
    )
