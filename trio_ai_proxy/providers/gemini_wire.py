"""What Gemini's chunks and answers hold, as far as anyone here needs to know. A chunk of a stream and a whole answer have the
same shape. Fields that nobody reads are skipped by the JSON reader without making objects of them; a null is the same as
nothing.

Source: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse and, for the fields that Vertex AI has
beside them, https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference#response
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.providers.loose import count, read_leniently


class _Struct(msgspec.Struct, gc=False, rename="camel"):
    pass


class FunctionCall(_Struct):
    id: Any = None
    name: Any = None
    args: Any = None


class Blob(_Struct):
    mime_type: Any = None
    data: Any = None


class Code(_Struct):
    """`executableCode` (language, code) or `codeExecutionResult` (outcome, output)."""

    language: Any = None
    code: Any = None
    output: Any = None


class Part(_Struct):
    text: Any = None
    thought: Any = None
    thought_signature: Any = None
    function_call: FunctionCall | None = None
    inline_data: Blob | None = None
    executable_code: Code | None = None
    code_execution_result: Code | None = None


class Content(_Struct):
    parts: list[Part] | None = None


class Candidate(_Struct):
    index: int | None = None
    content: Content | None = None
    finish_reason: Any = None
    finish_message: Any = None
    grounding_metadata: Any = None
    citation_metadata: Any = None
    logprobs_result: Any = None


class Feedback(_Struct):
    block_reason: Any = None
    block_reason_message: Any = None  # Vertex AI alone


class Usage(_Struct):
    prompt_token_count: Any = None
    candidates_token_count: Any = None
    thoughts_token_count: Any = None
    tool_use_prompt_token_count: Any = None
    cached_content_token_count: Any = None
    total_token_count: Any = None


class Answer(_Struct):
    """A chunk of a stream, or a whole answer."""

    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: Usage | None = None
    model_version: Any = None
    response_id: Any = None
    create_time: Any = None  # Vertex AI alone
    error: Any = None


_decode = msgspec.json.Decoder(Answer).decode


def read(data: bytes) -> Answer:
    """The JSON document `data`; of an array with one object (Google's errors come so), that object. Raises
    `UpstreamProtocolError` if it is none, or not of Gemini's shape."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _read_again(data, error)


def _read_again(data: bytes, first: Exception) -> Answer:
    try:
        document = read_leniently(data)
        if isinstance(document, list) and len(document) == 1:
            document = document[0]
        return msgspec.convert(document, Answer)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        # The reader's own words speak of places and types, never of content.
        why = str(first) if isinstance(first, msgspec.DecodeError) else type(first).__name__
        raise UpstreamProtocolError(f"The provider sent what is not a Gemini answer: {why}.") from first


def token_usage(usage: Usage) -> TokenUsage | None:
    """The counts, or None if there are none in it (an early chunk of Vertex AI says its kind of traffic alone).

    `candidatesTokenCount` is without the thoughts, and `promptTokenCount` without the results of tools that Google ran.
    """
    if usage.prompt_token_count is None and usage.candidates_token_count is None and usage.total_token_count is None:
        return None
    prompt = count(usage.prompt_token_count) + count(usage.tool_use_prompt_token_count)
    thoughts = count(usage.thoughts_token_count)
    completion = count(usage.candidates_token_count) + thoughts
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=count(usage.total_token_count) or prompt + completion,
        cached_tokens=count(usage.cached_content_token_count),
        reasoning_tokens=thoughts,
    )


def seconds(created: Any) -> int:
    """A time in RFC 3339 as seconds since the epoch, 0 if it is none."""
    if not isinstance(created, str):
        return 0
    try:
        moment = datetime.fromisoformat(created)
        return max(0, int(moment.timestamp())) if moment.tzinfo is not None else 0
    except (ValueError, OverflowError, OSError):
        return 0
