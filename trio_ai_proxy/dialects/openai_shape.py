"""What OpenAI's two operations share: how a request is read, and how errors, usage and the end of a stream are written.

A body is read once, strictly, and what was read is what goes out: the provider never sees a byte that could mean
something else to it than it meant here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ai_proxy.chat.events import Cited, Started
    from trio_ai_proxy.chat.fold import Answer, Choice, Thought
    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.chat.usage import TokenUsage
    from trio_ai_proxy.errors import ProxyError

TERMINAL = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_MAX_MODEL_CHARACTERS = 256

# Fields that decide where a request goes and what it costs. JSON leaves open which of two namesakes counts; we ask.
_UNIQUE = ("model", "messages", "prompt", "stream", "stream_options")

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object `body`. Raises `InvalidRequest` for what is none, or what others might read differently."""
    try:
        body.decode("utf-8")
        fields = _decode(body)
    except UnicodeDecodeError as error:
        raise _not_json("it is not UTF-8") from error
    except RecursionError as error:
        raise _not_json("it is nested too deeply") from error
    except msgspec.ValidationError as error:
        # Of the two things that a valid document can be and an object of anything cannot.
        what = "a number in it is too large" if "out of range" in str(error) else "it is not a JSON object"
        raise _not_json(what) from error
    except msgspec.DecodeError as error:
        raise _not_json("it is not valid JSON") from error
    _refuse_twins(body)
    return fields


def _not_json(what: str) -> InvalidRequest:
    return InvalidRequest(f"The request body cannot be used: {what}.", code="invalid_json")


def _refuse_twins(body: bytes) -> None:
    # A key that stands once in the whole body cannot stand twice at its top, and looking that up is quick. A key spelt
    # with escapes is missed; that is harmless, for only what we read goes out.
    if all(body.count(b'"%b"' % name.encode()) < 2 for name in _UNIQUE):
        return
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        nonlocal pairs
        pairs = found  # objects are closed from the inside out, so the last one is the outermost

    json.loads(body, object_pairs_hook=keep)
    names = [name for name, _ in pairs]
    for name in _UNIQUE:
        if names.count(name) > 1:
            raise InvalidRequest(f'The request body has "{name}" more than once.', param=name, code="duplicate_field")


def read_request(fields: dict[str, Any], operation: Operation, route_model: str | None) -> ChatRequest:
    """The part of a request that the two operations share. Raises `InvalidRequest`."""
    stream = _read_flag(fields.get("stream"), "stream")
    include_usage = False
    if stream:
        options = fields.get("stream_options")
        if options is not None and not isinstance(options, dict):
            raise InvalidRequest('"stream_options" must be an object.', param="stream_options")
        include_usage = _read_flag((options or {}).get("include_usage"), "stream_options.include_usage")
    return ChatRequest(operation, read_model(fields, route_model), stream, include_usage, fields)


def _read_flag(value: Any, name: str) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f'"{name}" must be true or false.', param=name)
    return value


def read_model(fields: Mapping[str, Any], route_model: str | None) -> str:
    model = fields.get("model")
    if route_model is not None:
        if model is not None and model != route_model:
            raise InvalidRequest(f"This path serves '{route_model}'; leave \"model\" out.", param="model")
        return route_model
    if model is None or model == "":
        raise InvalidRequest('The request body must name a "model".', param="model", code="missing_model")
    if not isinstance(model, str) or len(model) > _MAX_MODEL_CHARACTERS or not model.isprintable():
        raise InvalidRequest(
            f'"model" must be text of at most {_MAX_MODEL_CHARACTERS} printable characters.', param="model"
        )
    return model


def encode_error(error: ProxyError) -> bytes:
    return encode({"error": _error(error)})


def encode_stream_error(error: ProxyError) -> bytes:
    # The official SDKs raise on `data` with an object `error`, and keep its message, type and code; of an `error` that
    # is a text they lose the message.
    return b"data: " + encode({"error": _error(error)}) + b"\n\n"


def _error(error: ProxyError) -> dict[str, object]:
    words = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {**words, **(error.details or {})}


def encode_usage(started: Started, usage: TokenUsage, object_name: str) -> bytes:
    chunk: dict[str, Any] = {
        "id": started.id,
        "object": object_name,
        "created": started.created,
        "model": started.model,
    }
    if started.system_fingerprint is not None:
        chunk["system_fingerprint"] = started.system_fingerprint
    chunk["choices"] = []
    chunk["usage"] = usage_object(usage)
    return b"data: " + encode(chunk) + b"\n\n"


def usage_object(usage: TokenUsage) -> dict[str, Any]:
    sent = {"cached_tokens": usage.cached_tokens}
    if usage.cache_write_tokens:
        sent["cache_write_tokens"] = usage.cache_write_tokens  # OpenRouter's name for it
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens or usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": sent,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def encode(value: Any) -> bytes:
    """`value` as JSON. Half a surrogate pair in a text, which UTF-8 cannot say, becomes U+FFFD."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def chunk_head(started: Started, object_name: str) -> bytes:
    """What every chunk of a stream begins with, up to its first choice."""
    chunk: dict[str, Any] = {
        "id": started.id,
        "object": object_name,
        "created": started.created,
        "model": started.model,
    }
    if started.system_fingerprint is not None:
        chunk["system_fingerprint"] = started.system_fingerprint
    return b"data: " + encode(chunk)[:-1] + b',"choices":['


def thinking_block(thought: Thought) -> dict[str, str]:
    """A block of thinking in the form in which clients give it back (Anthropic's, as LiteLLM's clients know it)."""
    if thought.redacted:
        return {"type": "redacted_thinking", "data": thought.redacted}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature}


def annotation(cited: Cited) -> dict[str, Any]:
    """Where text is from: OpenAI's `url_citation`, and for a document of the request `file_citation`."""
    if cited.url:
        place = {"start_index": cited.start, "end_index": cited.end, "url": cited.url, "title": cited.title}
        return {"type": "url_citation", "url_citation": place}
    document = {"file_id": cited.source, "filename": cited.title, "index": cited.end, "quote": cited.quote}
    return {"type": "file_citation", "file_citation": document}


def extra_content(signature: str) -> dict[str, Any]:
    """What a tool call carries beside OpenAI's fields: Gemini's thought signature, where Google's own OpenAI endpoint has it.

    Source: https://ai.google.dev/gemini-api/docs/thought-signatures#openai
    """
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def answer_object(answer: Answer, object_name: str, choice: Callable[[Choice], dict[str, Any]]) -> dict[str, Any]:
    """A whole answer; `choice` writes one of its choices."""
    whole: dict[str, Any] = {
        "id": answer.id,
        "object": object_name,
        "created": answer.created,
        "model": answer.model,
        "choices": [choice(one) for one in answer.choices],
    }
    if answer.usage is not None:
        whole["usage"] = usage_object(answer.usage)
    if answer.system_fingerprint is not None:
        whole["system_fingerprint"] = answer.system_fingerprint
    return whole
