"""What the demo provider answers: the same request always gets the same words, and the model's name picks the fault.

No clock and no network: an answer is a plan of (pause, bytes) that `upstream.demo` plays on Trio's clock. The bytes are
OpenAI's wire format, so that everything behind them is exercised as it is by a real account.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trio_ai_proxy.providers.demo_prose import PARAGRAPHS
from trio_ai_proxy.providers.demo_tools import example_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_ai_proxy.chat.request import Operation

TOKENS_PER_SECOND = 30.0
MAX_WORDS = 400
SLOW_FIRST_TOKEN_SECONDS = 8.0
WORDS_BEFORE_FAULT = 10
RETRY_AFTER_SECONDS = 7
_PARAGRAPHS_PER_ANSWER = 3
_ARGUMENT_FRAGMENT_CHARACTERS = 12
_QUOTED_RESULT_CHARACTERS = 300

DEMO_MODELS: dict[str, str] = {
    "demo": f"Prose at {TOKENS_PER_SECOND:.0f} tokens a second.",
    "demo-fast": "The same prose without any pause: for tests and benchmarks.",
    "demo-endless": "Prose that never stops by itself: for drains and soaks.",
    "demo-slow-first-token": f"Thinks for {SLOW_FIRST_TOKEN_SECONDS:.0f} seconds before the first token.",
    "demo-stall": f"Falls silent for ever after {WORDS_BEFORE_FAULT} words.",
    "demo-cut": f"The connection breaks in the middle of a frame after {WORDS_BEFORE_FAULT} words.",
    "demo-garbage": f"Sends bytes that are no stream of events after {WORDS_BEFORE_FAULT} words.",
    "demo-error-in-200": "Answers 200 and then says, before any token, that it failed.",
    "demo-429": f"Refuses: too many requests, try again in {RETRY_AFTER_SECONDS} seconds.",
    "demo-no-usage": "A whole answer that never reports its tokens.",
}

_STREAM_HEADERS = (("content-type", "text/event-stream; charset=utf-8"),)
_JSON_HEADERS = (("content-type", "application/json"),)
_DONE = b"data: [DONE]\n\n"
# The NUL and the 0xFF are no text in any encoding that JSON allows; the second frame is JSON that ends too early.
_GARBAGE = b'\x00\xff\xfe<html>502\r\n\r\ndata: {"choices":[{"delta":{"content":\n\n'


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """One answer to play.

    head_pause  seconds before the head
    steps       (seconds to wait, bytes to give then), pulled one at a time; it may be endless, and it can be used once
    ending      after the last step: close cleanly, cut the connection, or fall silent for ever
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    steps: Iterator[tuple[float, bytes]]
    head_pause: float = 0.0
    ending: Literal["close", "cut", "stall"] = "close"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is said, before it is put on the wire: pieces of text, or of one tool call's arguments."""

    pieces: Iterable[str]
    finish: str
    tool: tuple[str, str] | None = None  # (id, name)


class _Refusal(Exception):
    """The request cannot be served; the answer says why."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.answer = error_answer(status, message, type="invalid_request_error", param=param, code=code)


def demo_script(
    model: str, operation: Operation, fields: dict[str, Any], *, answer_id: str = "demo", created: int = 0
) -> DemoAnswer:
    """What the demo service answers to the JSON body `fields`.

    model      the service's own name: one of `DEMO_MODELS`, else the answer is a 404
    answer_id  what makes the `id` of this answer unique
    created    seconds since the epoch, as the answer's `created` says
    It always answers with a stream, whatever `fields["stream"]` says, and with a JSON error where it cannot.
    """
    if model not in DEMO_MODELS:
        message = f"The model `{model}` does not exist or you do not have access to it."
        return error_answer(404, message, type="invalid_request_error", code="model_not_found")
    if model == "demo-429":
        message = f"Rate limit reached for {model}. Please try again in {RETRY_AFTER_SECONDS}s."
        retry_after = (("retry-after", str(RETRY_AFTER_SECONDS)),)
        return error_answer(429, message, type="requests", code="rate_limit_exceeded", headers=retry_after)
    try:
        plan = _plan(operation, fields, endless=model == "demo-endless")
        wire = _Wire(model, operation, fields, answer_id=answer_id, created=created)
    except _Refusal as refusal:
        return refusal.answer
    pause = 0.0 if model == "demo-fast" else 1 / TOKENS_PER_SECOND
    match model:
        case "demo-stall":
            return DemoAnswer(200, _STREAM_HEADERS, wire.beginning(plan, pause), ending="stall")
        case "demo-cut":
            half = wire.piece("half of this", plan)[:-20]
            return DemoAnswer(200, _STREAM_HEADERS, wire.beginning(plan, pause, then=half), ending="cut")
        case "demo-garbage":
            return DemoAnswer(200, _STREAM_HEADERS, wire.beginning(plan, pause, then=_GARBAGE))
        case "demo-error-in-200":
            message = "The server had an error while processing your request. Sorry about that!"
            failure = _error_json(message, type="server_error", code="server_error")
            return DemoAnswer(200, _STREAM_HEADERS, iter([(0.0, b"data: " + failure + b"\n\n")]))
        case "demo-slow-first-token":
            return DemoAnswer(200, _STREAM_HEADERS, wire.whole(plan, pause, first=SLOW_FIRST_TOKEN_SECONDS))
        case _:
            return DemoAnswer(200, _STREAM_HEADERS, wire.whole(plan, pause))


def error_answer(
    status: int,
    message: str,
    *,
    type: str,
    param: str | None = None,
    code: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> DemoAnswer:
    """An error answer in OpenAI's shape."""
    body = _error_json(message, type=type, param=param, code=code)
    return DemoAnswer(status, _JSON_HEADERS + headers, iter([(0.0, body)]))


def count_words(text: str) -> int:
    """The demo service's tokens: runs of characters that are not white space."""
    return len(text.split())


# ── What is said ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(operation: Operation, fields: dict[str, Any], *, endless: bool) -> _Plan:
    n = fields.get("n")
    if n is not None and n != 1:
        raise _Refusal("The demo service gives one choice: `n` must be 1.", param="n", code="invalid_value")
    limit = _limit(fields)
    stops = _stops(fields)
    asked = last_said(operation, fields)
    if operation == "chat":
        tool = _tool_to_call(fields)
        if tool is not None:
            name, schema = tool
            arguments = json.dumps(example_value(schema, text=asked), ensure_ascii=False)
            size = _ARGUMENT_FRAGMENT_CHARACTERS
            fragments = [arguments[at : at + size] for at in range(0, len(arguments), size)]
            finish = "length" if len(fragments) > limit else "tool_calls"
            return _Plan(fragments[: int(min(limit, len(fragments)))], finish, tool=(_call_id(name, asked), name))
    first = int.from_bytes(hashlib.sha256(asked.encode("utf-8", "replace")).digest()[:4]) % len(PARAGRAPHS)
    turned = PARAGRAPHS[first:] + PARAGRAPHS[:first]
    if endless:
        # The text goes round and round, so a stop that two rounds do not hold never comes.
        text = "\n\n".join(turned)
        two_rounds = f"{text}\n\n{text}"
        cut = _first_stop(two_rounds, stops)
        if cut is None:
            pieces = itertools.chain(_pieces(text), itertools.cycle(_pieces("\n\n" + text)))
            return _Plan(itertools.islice(pieces, None if limit == _NO_LIMIT else int(limit)), "length")
        text = two_rounds[:cut]
    else:
        text = _quote_of_result(operation, fields) + "\n\n".join(turned[:_PARAGRAPHS_PER_ANSWER])
        cut = _first_stop(text, stops)
        if cut is not None:
            text = text[:cut]
    words = _pieces(text)
    finish = "stop"
    if not endless:
        words = words[:MAX_WORDS]
    if len(words) > limit:
        words, finish = words[: int(limit)], "length"
    return _Plan(words, finish)


_NO_LIMIT = float("inf")


def _limit(fields: dict[str, Any]) -> float:
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _Refusal(f"`{name}` must be a whole number of at least 1.", param=name, code="invalid_value")
        return value
    return _NO_LIMIT


def _stops(fields: dict[str, Any]) -> list[str]:
    stop = fields.get("stop")
    stops = [stop] if isinstance(stop, str) else ([] if stop is None else stop)
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise _Refusal("`stop` must be a string or a list of strings.", param="stop", code="invalid_type")
    return [one for one in stops if one]


def _first_stop(text: str, stops: list[str]) -> int | None:
    return min((at for at in (text.find(stop) for stop in stops) if at >= 0), default=None)


def _pieces(text: str) -> list[str]:
    """The text cut into words, each with the white space before it; joined they are the text."""
    return re.findall(r"\s*\S+|\s+", text)


def last_said(operation: Operation, fields: dict[str, Any]) -> str:
    """The words that the answer depends on: of the last message of the user, or the prompt."""
    if operation == "completions":
        return _text_of_prompt(fields)
    for message in reversed(_messages(fields)):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    return ""


def _messages(fields: dict[str, Any]) -> list[dict[str, Any]]:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise _Refusal("`messages` must be a list of at least one message.", param="messages", code="invalid_type")
    return messages


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def _text_of_prompt(fields: dict[str, Any]) -> str:
    prompt = fields.get("prompt", "")
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    raise _Refusal("The demo service takes one prompt: a string or a list of one.", param="prompt", code="invalid_type")


def _quote_of_result(operation: Operation, fields: dict[str, Any]) -> str:
    """After a tool has run, the answer begins with what it said."""
    last = _messages(fields)[-1] if operation == "chat" else {}
    if last.get("role") not in ("tool", "function"):
        return ""
    return f"The tool answered “{_text_of(last.get('content'))[:_QUOTED_RESULT_CHARACTERS]}”. With that in hand:\n\n"


def _tool_to_call(fields: dict[str, Any]) -> tuple[str, object] | None:
    """Name and parameter schema of the tool to call, if this turn calls one."""
    tools = fields.get("tools")
    choice = fields.get("tool_choice")
    if not tools or choice == "none" or _messages(fields)[-1].get("role") != "user":
        return None
    if not isinstance(tools, list):
        raise _Refusal("`tools` must be a list.", param="tools", code="invalid_type")
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    known = {one["name"]: one for one in functions if isinstance(one, dict) and isinstance(one.get("name"), str)}
    if not known:
        raise _Refusal("`tools` holds no function with a name.", param="tools", code="invalid_value")
    wanted = next(iter(known))
    if isinstance(choice, dict):
        named = choice.get("function")
        wanted = named.get("name", "") if isinstance(named, dict) else ""
        if wanted not in known:
            raise _Refusal("`tool_choice` names no function of `tools`.", param="tool_choice", code="invalid_value")
    return wanted, known[wanted].get("parameters")


def _call_id(name: str, asked: str) -> str:
    return "call_" + hashlib.sha256(f"{name}\n{asked}".encode("utf-8", "replace")).hexdigest()[:24]


# ── How it goes on the wire ──────────────────────────────────────────────────────────────────────────────────────────


class _Wire:
    """OpenAI's frames of one answer. What all of them share is encoded once."""

    def __init__(
        self, model: str, operation: Operation, fields: dict[str, Any], *, answer_id: str, created: int
    ) -> None:
        self._is_chat = operation == "chat"
        options = fields.get("stream_options")
        wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._sends_usage = wants_usage and model != "demo-no-usage"
        self._prompt_tokens = _prompt_tokens(operation, fields)
        head = {
            "id": ("chatcmpl-" if self._is_chat else "cmpl-") + answer_id,
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "created": created,
            "model": model,
            "system_fingerprint": "fp_demo",
        }
        self._head = b"data: " + _json(head)[:-1] + b',"choices":['
        # OpenAI says `"usage":null` on every chunk but the last, if and only if usage was asked for.
        self._tail = b'],"usage":null}\n\n' if self._sends_usage else b"]}\n\n"

    def whole(self, plan: _Plan, pause: float, *, first: float | None = None) -> Iterator[tuple[float, bytes]]:
        """The whole stream; `first` is the pause before the first piece, if it is not `pause` like the others."""
        yield from self._opening(plan)
        said = 0
        wait = pause if first is None else first
        for piece in plan.pieces:
            yield wait, self.piece(piece, plan)
            said += 1
            wait = pause
        yield 0.0, self._finish(plan)
        if self._sends_usage:
            yield 0.0, self._usage(said)
        yield 0.0, _DONE

    def beginning(self, plan: _Plan, pause: float, *, then: bytes = b"") -> Iterator[tuple[float, bytes]]:
        """The first words of the stream, and then `then`."""
        yield from self._opening(plan)
        for piece in itertools.islice(plan.pieces, WORDS_BEFORE_FAULT):
            yield pause, self.piece(piece, plan)
        if then:
            yield pause, then

    def piece(self, piece: str, plan: _Plan) -> bytes:
        """The frame that says one more piece."""
        text = _json(piece)
        if not self._is_chat:
            choice = b'{"text":' + text + b',"index":0,"logprobs":null,"finish_reason":null}'
        elif plan.tool is None:
            choice = b'{"index":0,"delta":{"content":' + text + b'},"logprobs":null,"finish_reason":null}'
        else:
            call = b'{"index":0,"function":{"arguments":' + text + b"}}"
            choice = b'{"index":0,"delta":{"tool_calls":[' + call + b']},"logprobs":null,"finish_reason":null}'
        return self._head + choice + self._tail

    def _opening(self, plan: _Plan) -> Iterator[tuple[float, bytes]]:
        if not self._is_chat:
            return
        delta: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        if plan.tool is not None:
            id, name = plan.tool
            call = {"index": 0, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
            delta = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        yield 0.0, self._head + _json(choice) + self._tail

    def _finish(self, plan: _Plan) -> bytes:
        said: dict[str, Any] = {"delta": {}} if self._is_chat else {"text": ""}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": plan.finish}
        return self._head + _json(choice) + self._tail

    def _usage(self, completion_tokens: int) -> bytes:
        prompt_tokens = self._prompt_tokens
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        return self._head + b'],"usage":' + _json(usage) + b"}\n\n"


def _prompt_tokens(operation: Operation, fields: dict[str, Any]) -> int:
    if operation == "completions":
        return count_words(_text_of_prompt(fields))
    return sum(count_words(_text_of(message.get("content"))) for message in _messages(fields))


def _error_json(message: str, *, type: str, param: str | None = None, code: str | None = None) -> bytes:
    return _json({"error": {"message": message, "type": type, "param": param, "code": code}})


def _json(value: object) -> bytes:
    # A lone surrogate is legal in JSON's escapes and in no encoding: it becomes a question mark.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
