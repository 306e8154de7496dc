"""Scripts in OpenAI's wire shape, for tests that care about time and faults and not about JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trio_ai_proxy.upstream.script import Ending, Script, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def openai_stream(
    text_pieces: Iterable[str],
    *,
    pause: float = 0.0,
    usage: tuple[int, int] | None = None,
    model: str = "scripted",
    done: bool = True,
    finish_reason: str | None = "stop",
    head_pause: float = 0.0,
    ending: Ending = "close",
    ends: bool = True,
) -> Script:
    """A streamed chat completion: a role chunk, one chunk for each piece, a finish chunk, `[DONE]`.

    text_pieces    one delta each; pulled one at a time, so it may be endless (then the script can be played once)
    pause          seconds before each delta
    usage          (prompt_tokens, completion_tokens) of a last chunk, or None for no such chunk
    done           whether `[DONE]` is sent
    finish_reason  of the finish chunk; None leaves the chunk out
    head_pause     seconds before the response's head
    ending         what happens after the last byte: "close", "cut" or "stall"
    ends           False: only the role chunk and the deltas, and then `ending`; for cuts and stalls in mid-stream
    """

    def steps() -> Iterator[Step]:
        yield Step(0.0, _chunk(model, {"role": "assistant", "content": ""}))
        for piece in text_pieces:
            yield Step(pause, _chunk(model, {"content": piece}))
        if not ends:
            return
        if finish_reason is not None:
            yield Step(0.0, _chunk(model, {}, finish_reason=finish_reason))
        if usage is not None:
            yield Step(0.0, _usage_chunk(model, *usage))
        if done:
            yield Step(0.0, b"data: [DONE]\n\n")

    return Script(steps=steps, head_pause=head_pause, ending=ending)


def openai_answer(
    text: str,
    *,
    usage: tuple[int, int] | None = None,
    model: str = "scripted",
    finish_reason: str = "stop",
    head_pause: float = 0.0,
) -> Script:
    """A chat completion in one piece: what a provider answers when no stream was asked for. Arguments as above."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    answer = {**_head(model), "object": "chat.completion", "choices": [choice]}
    if usage is not None:
        answer["usage"] = _usage(*usage)
    return Script(
        headers=(("content-type", "application/json"),),
        steps=lambda: iter([Step(0.0, _json(answer))]),
        head_pause=head_pause,
    )


def openai_error(
    status: int,
    message: str = "The server had an error while processing your request.",
    *,
    type: str = "server_error",
    code: str | None = None,
    param: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    head_pause: float = 0.0,
) -> Script:
    """An answer that refuses, in OpenAI's shape. With `status` 200 it is an event inside a stream that began well."""
    error = {"error": {"message": message, "type": type, "param": param, "code": code}}
    if status == 200:
        kind, body = "text/event-stream", b"data: " + _json(error) + b"\n\n"
    else:
        kind, body = "application/json", _json(error)
    return Script(
        status=status,
        headers=(("content-type", kind), *headers),
        steps=lambda: iter([Step(0.0, body)]),
        head_pause=head_pause,
    )


def _head(model: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model}


def _chunk(model: str, delta: dict[str, Any], *, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b"data: " + _json({**_head(model), "choices": [choice]}) + b"\n\n"


def _usage_chunk(model: str, prompt_tokens: int, completion_tokens: int) -> bytes:
    usage = _usage(prompt_tokens, completion_tokens)
    return b"data: " + _json({**_head(model), "choices": [], "usage": usage}) + b"\n\n"


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
