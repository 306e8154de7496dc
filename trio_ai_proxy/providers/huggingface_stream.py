"""What the answers of Hugging Face's servers mean: chats, which are OpenAI's but for the finish reasons; texts of Text
Generation Inference; vectors.

A streamed text is whole when the frame with `generated_text` came; nothing follows it. The server leaves the stop sequence
at the end of the text, where OpenAI's has none, so what could be one is held back until it is known.

Source: https://huggingface.co/docs/text-generation-inference/en/reference/api_reference
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.chat.events import (
    Embedded,
    Ended,
    Event,
    Failed,
    Finished,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamProtocolError
from trio_ai_proxy.providers.error_words import Scrub, stream_error
from trio_ai_proxy.providers.loose import a_dict, a_text, count, read_leniently, read_object
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder
from trio_ai_proxy.providers.openai_stream import read_answer as read_openai_answer

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame

_FINISHES = {"eos_token": "stop", "stop_sequence": "stop"}

# With which status the server would have said the error, had it not begun to answer.
_STATUSES = {"overloaded": 429, "validation": 422, "generation": 424, "incomplete_generation": 500}


class ChatDecoder:
    """A stage from frames to events, for one streamed chat."""

    def __init__(self, request: ChatRequest, scrub: Scrub) -> None:
        self._openai = OpenAIDecoder("chat", scrub)
        self._request = request
        self._scrub = scrub
        self._is_over = False

    def feed(self, item: Frame) -> list[Event]:
        if self._is_over:
            return []
        failed = _own_error(item.data or b"", self._scrub)
        if failed is not None:
            self._is_over = True
            return [failed]
        events = _in_openais_words(self._openai.feed(item), self._request)
        if events and isinstance(events[-1], Ended | Failed):
            self._is_over = True
        return events

    def close(self) -> list[Event]:
        return [] if self._is_over else self._openai.close()


def read_chat(request: ChatRequest, body: bytes, scrub: Scrub) -> list[Event]:
    """What a whole chat means. Raises `UpstreamProtocolError` if it is none."""
    failed = _own_error(body, scrub)
    return [failed] if failed is not None else _in_openais_words(read_openai_answer("chat", body, scrub), request)


def _own_error(data: bytes, scrub: Scrub) -> Failed | None:
    """The error that Text Generation Inference says in its own way, which has a word for what kind it is."""
    if b'"error_type"' not in data:
        return None
    said = read_object(data) or {}
    return _failed(said["error"], said.get("error_type"), scrub) if said.get("error") else None


def _in_openais_words(events: list[Event], request: ChatRequest) -> list[Event]:
    if len(events) == 1 and type(events[0]) is TextDelta:
        return events
    out: list[Event] = []
    for event in events:
        match event:
            case Finished():
                out.append(Finished(_FINISHES.get(event.reason, event.reason), event.index))
            case ToolCallDelta(id="0"):  # Text Generation Inference calls every call so
                call_id = f"call_{len(request.fields['messages'])}_{event.index}_{event.call}"
                out.append(ToolCallDelta(event.call, call_id, event.name, event.arguments, event.index))
            case _:
                out.append(event)
    return out


# -- texts ------------------------------------------------------------------------------------------------------------


class _Token(msgspec.Struct, gc=False):
    text: Any = None
    special: Any = None


class _Generated(msgspec.Struct, gc=False):
    """A frame of a streamed text."""

    token: _Token | None = None
    generated_text: Any = None
    details: Any = None
    error: Any = None
    error_type: Any = None


_decode = msgspec.json.Decoder(_Generated).decode


class TextDecoder:
    """A stage from frames to events, for one streamed text that `stop` ends."""

    def __init__(self, stop: tuple[str, ...], scrub: Scrub) -> None:
        self._scrub = scrub
        self._tail = _Tail(stop)
        self._has_started = False
        self._is_over = False

    def feed(self, item: Frame) -> list[Event]:
        data = item.data
        if self._is_over or data is None or not data.strip() or data.strip() == b"[DONE]":
            return []
        try:
            said = _read(data)
        except UpstreamProtocolError as error:
            if item.whole:
                raise
            raise TruncatedStream("The provider's stream stopped in the middle of a frame.") from error
        events: list[Event] = []
        if said.error:
            self._is_over = True
            return [_failed(said.error, said.error_type, self._scrub)]
        if not self._has_started:
            self._has_started = True
            events.append(Started("", ""))
        token = said.token
        if token is not None and not token.special and isinstance(token.text, str) and token.text:
            text = self._tail.add(token.text)
            if text:
                events.append(TextDelta(text))
        if said.generated_text is not None or said.details is not None:
            self._end(said, events)
        return events

    def close(self) -> list[Event]:
        if self._is_over:
            return []
        self._is_over = True
        raise TruncatedStream("The provider's stream stopped before the answer was finished.")

    def _end(self, said: _Generated, events: list[Event]) -> None:
        self._is_over = True
        details = a_dict(said.details)
        rest = self._tail.rest(stopped=details.get("finish_reason") == "stop_sequence")
        if rest:
            events.append(TextDelta(rest))
        events += _end_of_text(details)


class _Tail:
    """Holds back what could be the beginning of a stop sequence."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = tuple(text for text in stop if text)
        self._held = ""

    def add(self, text: str) -> str:
        """What can be told, now that `text` has come."""
        if not self._stop:
            return text
        whole = self._held + text
        keep = max(_overlap(whole, stop) for stop in self._stop)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]

    def rest(self, *, stopped: bool) -> str:
        """What is left at the end; `stopped` if a stop sequence was it."""
        return _without_stop(self._held, self._stop) if stopped else self._held


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` is the beginning of `stop`, or all of it."""
    return next((size for size in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:size])), 0)


def _without_stop(text: str, stop: tuple[str, ...]) -> str:
    longest_first = sorted(stop, key=len, reverse=True)
    found = next((one for one in longest_first if one and text.endswith(one)), "")
    return text[: len(text) - len(found)]


def read_text(body: bytes, stop: tuple[str, ...], scrub: Scrub) -> list[Event]:
    """What a whole text that `stop` ends means. Raises `UpstreamProtocolError` if it is none."""
    document = _document(body)
    if isinstance(document, list) and len(document) == 1:
        document = document[0]  # a pipeline's answers are a list, one for each input
    answer = a_dict(document)
    if answer.get("error"):
        return [_failed(answer["error"], answer.get("error_type"), scrub)]
    text = answer.get("generated_text")
    if not isinstance(text, str):
        raise UpstreamProtocolError("The provider's answer has no generated text.")
    details = a_dict(answer.get("details"))
    if details.get("finish_reason") == "stop_sequence":
        text = _without_stop(text, stop)
    spoken: list[Event] = [TextDelta(text)] if text else []
    return [Started("", ""), *spoken, *_end_of_text(details)]


def _end_of_text(details: dict[str, Any]) -> list[Event]:
    """What the details say. How long the prompt was is not always among them, and then nothing is said of usage."""
    events: list[Event] = []
    reason = details.get("finish_reason")
    if isinstance(reason, str) and reason:
        events.append(Finished(_FINISHES.get(reason, reason)))
    prompt = details.get("input_length")
    if prompt is None and isinstance(details.get("prefill"), list) and details["prefill"]:
        prompt = len(details["prefill"])
    if prompt is not None and details.get("generated_tokens") is not None:
        sent, made = count(prompt), count(details["generated_tokens"])
        events.append(UsageReported(TokenUsage(sent, made, sent + made)))
    return [*events, Ended()]


# -- vectors ----------------------------------------------------------------------------------------------------------


def read_vectors(body: bytes, scrub: Scrub) -> list[Event]:
    """What a whole answer of feature extraction means. Raises `UpstreamProtocolError` if it is none, and for a model that
    gives a vector for each token: what one of the text would be is not ours to say."""
    document = _document(body)
    if isinstance(document, dict):
        if document.get("error"):
            return [_failed(document["error"], document.get("error_type"), scrub)]
        document = document.get("embeddings")
    if not isinstance(document, list) or not document:
        raise UpstreamProtocolError("The provider's answer has no embeddings.")
    if not isinstance(document[0], list):
        document = [document]  # the vector itself, where there is but one text
    try:
        vectors = msgspec.convert(document, list[list[float]])
    except msgspec.ValidationError as error:
        raise UpstreamProtocolError("The provider's answer has an embedding that is no list of numbers.") from error
    if not all(vectors):
        raise UpstreamProtocolError("The provider's answer has an empty embedding.")
    return [Started("", ""), *(Embedded(vector, index) for index, vector in enumerate(vectors)), Ended()]


# -- pieces -----------------------------------------------------------------------------------------------------------


def _read(data: bytes) -> _Generated:
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as first:
        try:
            return msgspec.convert(read_leniently(data), _Generated)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            raise UpstreamProtocolError("The provider sent what is not generated text.") from first


def _document(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as first:
        try:
            return read_leniently(body)
        except (ValueError, RecursionError):
            raise UpstreamProtocolError("The provider sent what is not JSON.") from first


def error_text(words: Any) -> str:
    """The service's words: a text, a list of them, or an object with a message."""
    if isinstance(words, list):
        return "; ".join(str(word) for word in words)
    return words if isinstance(words, str) else a_text(a_dict(words).get("message"))


def _failed(words: Any, kind: Any, scrub: Scrub) -> Failed:
    error: dict[str, Any] = {"message": error_text(words), "type": a_text(kind)}
    status = _STATUSES.get(a_text(kind))
    if status is not None:
        error["status"] = status
    return Failed(stream_error({"error": error}, scrub))
