"""What Cohere's events and answers hold, as far as anyone here needs to know: of version 2, and of version 1, which still
stands behind some gateways. Fields that take several shapes are `Any` and looked at where they are used.

Source: https://docs.cohere.com/reference/chat-stream, https://docs.cohere.com/v1/reference/chat-stream and
https://docs.cohere.com/v1/reference/generate
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.chat.events import Cited
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamProtocolError
from trio_ai_proxy.providers.loose import a_dict, a_list, a_text, count, json_text, read_leniently

if TYPE_CHECKING:
    from collections.abc import Iterator


class Message(msgspec.Struct, gc=False):
    """`delta.message` of an event, `message` of an answer."""

    content: Any = None  # a block in an event, a list of blocks in an answer
    tool_plan: Any = None
    tool_calls: Any = None
    citations: Any = None


class Delta(msgspec.Struct, gc=False):
    message: Message | None = None
    finish_reason: Any = None
    usage: Any = None
    error: Any = None


class Said(msgspec.Struct, gc=False):
    """One event of a stream, of either version; or a whole answer."""

    type: Any = None
    index: Any = None
    delta: Delta | None = None
    id: Any = None
    logprobs: Any = None
    message: Any = None
    usage: Any = None
    finish_reason: Any = None
    # version 1
    event_type: Any = None
    generation_id: Any = None
    text: Any = None
    tool_calls: Any = None
    tool_call_delta: Any = None
    citations: Any = None
    response: Any = None
    generations: Any = None
    meta: Any = None
    err: Any = None
    # errors, and embeddings
    error: Any = None
    embeddings: Any = None


_decode = msgspec.json.Decoder(Said).decode


def read(data: bytes) -> Said:
    """The JSON document `data`. Raises `UpstreamProtocolError` if it is none, or not of Cohere's shape."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as first:
        try:
            return msgspec.convert(read_leniently(data), Said)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            reason = str(first) if isinstance(first, msgspec.DecodeError) else type(first).__name__
            raise UpstreamProtocolError(f"The provider sent what is not an answer of Cohere's: {reason}.") from first


def token_usage(usage: Any) -> TokenUsage | None:
    """The counts of `usage` (version 2) or `meta` (version 1), or None if there are none in it.

    `tokens` is what the model read and wrote. `billed_units` leaves out what Cohere puts around the messages, so it stands
    in only where it is alone.
    """
    counted = a_dict(usage)
    for name in ("tokens", "billed_units"):
        tokens = a_dict(counted.get(name))
        if tokens.get("input_tokens") is None and tokens.get("output_tokens") is None:
            continue
        prompt, completion = count(tokens.get("input_tokens")), count(tokens.get("output_tokens"))
        return TokenUsage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            cached_tokens=min(prompt, count(counted.get("cached_tokens"))),
        )
    return None


# -- citations --------------------------------------------------------------------------------------------------------


def cited(citations: Any) -> Iterator[Cited]:
    """Where the answer's text is from. A citation within a plan or a thought is none of the text."""
    for citation in citations if isinstance(citations, list) else [citations]:
        facts = a_dict(citation)
        if facts.get("type") not in (None, "", "TEXT_CONTENT"):
            continue
        sources = a_list(facts.get("sources")) or [{"id": name} for name in a_list(facts.get("document_ids"))]
        start, end = count(facts.get("start")), count(facts.get("end"))
        for source in sources:
            named = a_dict(source)
            document = a_dict(named.get("document"))
            told = Cited(
                url=a_text(document.get("url")),
                title=a_text(document.get("title")),
                source=a_text(named.get("id")) or a_text(document.get("id")),
                quote=a_text(facts.get("text")),
                start=start,
                end=max(start, end),
            )
            if told.url or told.title or told.source:
                yield told


# -- log probabilities ------------------------------------------------------------------------------------------------


def probability(item: Any) -> dict[str, Any] | None:
    """One piece of text in OpenAI's form. Cohere says of which tokens the piece consists by number alone, so the piece
    stands for one token: its probability is that of all of them."""
    facts = a_dict(item)
    text = facts.get("text")
    values = [value for value in a_list(facts.get("logprobs")) if isinstance(value, int | float) and -1e9 < value < 1e9]
    if not isinstance(text, str) or not values:
        return None
    spelt = text.encode("utf-8", "replace")
    return {"token": text, "logprob": float(sum(values)), "bytes": list(spelt), "top_logprobs": []}


# -- calls ------------------------------------------------------------------------------------------------------------


def read_call(call: Any) -> tuple[str, str, str]:
    """Id, name and arguments of one call, or of a fragment of one; version 1 has `name` and `parameters` at the top."""
    facts = a_dict(call)
    function = a_dict(facts.get("function")) or facts
    arguments = function.get("arguments", function.get("parameters"))
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):
        arguments = json_text(arguments)
    return a_text(facts.get("id")), a_text(function.get("name")), arguments
