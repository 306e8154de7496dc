"""What Cohere's events and answers mean. A stream is whole when `message-end` came (version 1: `stream-end`) and said no
error.

What the model plans before it calls tools is told as reasoning: it is no part of the answer, and a client that wants to see
it sees it there. A call's number is counted here, for the service counts blocks.

Source: https://docs.cohere.com/docs/streaming and https://docs.cohere.com/docs/tool-use-streaming
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
    LogProbabilities,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.errors import TruncatedStream, UpstreamProtocolError
from trio_ai_proxy.providers.cohere_wire import Delta, Message, Said, cited, probability, read, read_call, token_usage
from trio_ai_proxy.providers.error_words import Scrub, stream_error
from trio_ai_proxy.providers.loose import a_dict, a_list, a_text

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame

_FINISHES = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "ERROR_LIMIT": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}
_CUT_SHORT = ("length", "content_filter")
_FAILURES = {
    "ERROR": "The provider ended its answer with an error.",
    "TIMEOUT": "The provider took too long and gave its answer up.",
    "USER_CANCEL": "The provider's answer was cancelled there.",
}


class CohereDecoder:
    """A stage from frames to events, for one streamed answer to `request`."""

    def __init__(self, request: ChatRequest, scrub: Scrub) -> None:
        self._scrub = scrub
        self._calls = _Calls(request)
        self._has_started = False
        self._is_over = False

    def feed(self, item: Frame) -> list[Event]:
        data = item.data
        if self._is_over or data is None:
            return []
        try:
            if data[:1] != b"{":
                return self._feed_unusual(data)
            said = read(data)
        except UpstreamProtocolError as error:
            if item.whole:
                raise
            raise TruncatedStream("The provider's stream stopped in the middle of a frame.") from error
        if said.type == "content-delta" and said.logprobs is None and self._has_started:
            delta = said.delta
            content = delta.message.content if delta is not None and delta.message is not None else None
            return _block(content)
        return self._events(said)

    def close(self) -> list[Event]:
        if self._is_over:
            return []
        self._is_over = True
        raise TruncatedStream("The provider's stream stopped before the answer was finished.")

    def _feed_unusual(self, data: bytes) -> list[Event]:
        stripped = data.strip()
        if not stripped or stripped == b"[DONE]":
            return []  # the end is the one before it
        return self._events(read(stripped))

    def _events(self, said: Said) -> list[Event]:
        kind = said.type or said.event_type
        events: list[Event] = []
        if not self._has_started and kind is not None:
            self._has_started = True
            events.append(Started(a_text(said.id) or a_text(said.generation_id), ""))
        message = said.delta.message if said.delta is not None else None
        match kind:
            case "content-start" | "content-delta":
                events += _block(message.content if message is not None else None)
                _add_probabilities(events, said.logprobs)
            case "tool-plan-delta" | "tool-call-start" | "tool-call-delta" | "tool-call-end":
                events += self._tool(kind, said, message)
            case "citation-start" if message is not None:
                events += cited(message.citations)
            case "message-end":
                self._end(said, events)
            case "text-generation":
                _add_text(events, said.text, said.index)
            case "tool-calls-chunk" | "tool-calls-generation":
                events += self._older_tools(kind, said)
            case "citation-generation":
                events += cited(said.citations)
            case "stream-end":
                self._older_end(said, events)
            case _:
                words = said.err or said.error or (said.message if kind is None else None)
                if words or kind in ("error", "stream-error"):
                    self._is_over = True
                    events.append(_failed(words, self._scrub))
        return events

    def _tool(self, kind: str, said: Said, message: Message | None) -> list[Event]:
        if kind == "tool-call-end":
            return self._calls.end(said.index)
        if message is None:
            return []
        if kind == "tool-plan-delta":
            return _plan(message.tool_plan)
        fragments = message.tool_calls if isinstance(message.tool_calls, list) else [message.tool_calls]
        events: list[Event] = []
        for fragment in fragments:
            events += self._calls.add(fragment, said.index, opens=kind == "tool-call-start")
        return events

    def _older_tools(self, kind: str, said: Said) -> list[Event]:
        """Version 1 tells the calls in fragments, where it does, and then all of them once more."""
        if kind == "tool-calls-chunk":
            fragment = a_dict(said.tool_call_delta)
            plan = _plan(fragment.get("text") or said.text)
            if fragment.get("name") is None and fragment.get("parameters") is None:
                return plan
            return plan + self._calls.add(fragment, fragment.get("index"), opens=fragment.get("name") is not None)
        if self._calls.number:
            return []
        events = _plan(said.text)
        for position, call in enumerate(a_list(said.tool_calls)):
            events += self._calls.add(call, position, opens=True)
        return events

    def _end(self, said: Said, events: list[Event]) -> None:
        delta = said.delta or Delta()
        outcome = self._finish(delta.finish_reason, delta.error, 0)
        self._conclude(events, outcome, delta.usage if delta.usage is not None else said.usage)

    def _older_end(self, said: Said, events: list[Event]) -> None:
        response = a_dict(said.response)
        generations = a_list(response.get("generations"))  # of the generate endpoint
        reasons = [a_dict(generation).get("finish_reason") for generation in generations] or [said.finish_reason]
        outcome: list[Event] = []
        for index, reason in enumerate(reasons):
            outcome += self._finish(reason or said.finish_reason, None, index)
        self._conclude(events, outcome, response.get("meta"))

    def _finish(self, reason: Any, error: Any, index: int) -> list[Event]:
        failure = error or _failure(reason)
        if failure:
            return [_failed(failure, self._scrub)]
        word = _finish_word(reason, called=bool(self._calls.number)) if reason else ""
        events = self._calls.end_all() if word not in _CUT_SHORT else []
        return [*events, Finished(word, index)] if word else events

    def _conclude(self, events: list[Event], outcome: list[Event], usage: Any) -> None:
        self._is_over = True
        failure = next((event for event in outcome if isinstance(event, Failed)), None)
        events += [event for event in outcome if failure is None or not isinstance(event, Failed | Finished)]
        _add_usage(events, usage)
        events.append(failure or Ended())


class _Calls:
    """Counts the calls of an answer, and gives each an id and arguments where the service gives none."""

    def __init__(self, request: ChatRequest) -> None:
        # The same conversation gives the same ids, and no turn gives those of another.
        turns = request.fields.get("messages")
        self._made_up = f"call_{len(turns) if isinstance(turns, list) else 0}_"
        self.number = 0
        self._open: dict[Any, int] = {}
        self._ids: set[str] = set()
        self._has_arguments: set[int] = set()

    def add(self, fragment: Any, place: Any, *, opens: bool) -> list[Event]:
        """The event of a fragment of the call at `place`, which is the service's own number of it."""
        call_id, name, arguments = read_call(fragment)
        key = place if isinstance(place, int | float) else None
        if opens:
            # A number that is given a second time means another call; one without a name is none that can be made.
            self._open.pop(key, None)
            if not name:
                return []
            number = self._open[key] = self.number
            self.number += 1
            if not call_id or call_id in self._ids:
                call_id = f"{self._made_up}{number}"
            self._ids.add(call_id)
        else:
            found = self._open.get(key)
            if found is None or not arguments:
                return []
            number, call_id, name = found, "", ""
        if arguments:
            self._has_arguments.add(number)
        return [ToolCallDelta(number, call_id, name, arguments)]

    def end(self, place: Any) -> list[Event]:
        """The call at `place` is complete: one without arguments has an empty object of them."""
        number = self._open.get(place if isinstance(place, int | float) else None)
        if number is None or number in self._has_arguments:
            return []
        self._has_arguments.add(number)
        return [ToolCallDelta(number, arguments="{}")]

    def end_all(self) -> list[Event]:
        missing = [number for number in range(self.number) if number not in self._has_arguments]
        self._has_arguments.update(missing)
        return [ToolCallDelta(number, arguments="{}") for number in missing]


# -- whole answers ----------------------------------------------------------------------------------------------------


def read_answer(request: ChatRequest, body: bytes, scrub: Scrub) -> list[Event]:
    """What a whole answer to `request` means. Raises `UpstreamProtocolError` if it is none."""
    said = read(body)
    if request.operation == "embeddings":
        return _vectors(said, scrub)
    if said.error:
        return [_failed(said.error, scrub)]
    events: list[Event] = [Started(a_text(said.id) or a_text(said.generation_id), "")]
    calls = _Calls(request)
    if isinstance(said.message, dict):
        _add_message(events, said.message, calls)
        for item in a_list(said.logprobs):
            _add_probabilities(events, item)
    elif isinstance(said.generations, list):
        return _generations(said, events, scrub)
    elif isinstance(said.text, str):
        _add_older(events, said, calls)
    else:
        if said.message:
            return [_failed(said.message, scrub)]
        raise UpstreamProtocolError("The provider's answer has no message.")
    reason, usage = said.finish_reason, said.usage if said.usage is not None else said.meta
    failure = _failure(reason)
    if failure:
        _add_usage(events, usage)
        return [*events, _failed(failure, scrub)]
    word = _finish_word(reason, called=bool(calls.number)) if reason else ""
    if word not in _CUT_SHORT:
        events += calls.end_all()
    if word:
        events.append(Finished(word))
    _add_usage(events, usage)
    events.append(Ended())
    return events


def _add_message(events: list[Event], message: dict[str, Any], calls: _Calls) -> None:
    content = message.get("content")
    for block in content if isinstance(content, list) else [content]:
        events += [TextDelta(block)] if isinstance(block, str) and block else _block(block)
    events += _plan(message.get("tool_plan"))
    for position, call in enumerate(a_list(message.get("tool_calls"))):
        events += calls.add(call, position, opens=True)
    events += cited(message.get("citations") or [])


def _add_older(events: list[Event], said: Said, calls: _Calls) -> None:
    given = a_list(said.tool_calls)
    # Beside calls, what version 1 says is its plan.
    events += _plan(said.text) if given else []
    if not given:
        _add_text(events, said.text, 0)
    for position, call in enumerate(given):
        events += calls.add(call, position, opens=True)
    events += cited(said.citations or [])


def _generations(said: Said, events: list[Event], scrub: Scrub) -> list[Event]:
    for position, generation in enumerate(a_list(said.generations)):
        facts = a_dict(generation)
        _add_text(events, facts.get("text"), position)
        reason = facts.get("finish_reason")
        failure = _failure(reason)
        if failure:
            return [*events, _failed(failure, scrub)]
        if reason:
            events.append(Finished(_finish_word(reason, called=False), position))
    _add_usage(events, said.meta)
    return [*events, Ended()]


def _vectors(said: Said, scrub: Scrub) -> list[Event]:
    given = said.embeddings
    vectors = given.get("float") if isinstance(given, dict) else given  # version 1 gives the list itself
    if not isinstance(vectors, list):
        words = said.error or said.message
        if words:
            return [_failed(words, scrub)]
        raise UpstreamProtocolError("The provider's answer has no embeddings.")
    try:
        vectors = msgspec.convert(vectors, list[list[float]])
    except msgspec.ValidationError as error:
        raise UpstreamProtocolError("The provider's answer has an embedding that is no list of numbers.") from error
    if not vectors or not all(vectors):
        raise UpstreamProtocolError("The provider's answer has an empty embedding.")
    events: list[Event] = [Started(a_text(said.id), "")]
    events += [Embedded(vector, index) for index, vector in enumerate(vectors)]
    _add_usage(events, said.meta)
    return [*events, Ended()]


# -- pieces -----------------------------------------------------------------------------------------------------------


def _block(content: Any) -> list[Event]:
    """A block of content, or more of one."""
    if not isinstance(content, dict):
        return []
    text = content.get("text")
    if text and isinstance(text, str):
        return [TextDelta(text)]
    thinking = content.get("thinking")
    return [ReasoningDelta(thinking)] if thinking and isinstance(thinking, str) else []


def _plan(text: Any) -> list[Event]:
    return [ReasoningDelta(text)] if text and isinstance(text, str) else []


def _add_text(events: list[Event], text: Any, index: Any) -> None:
    if text and isinstance(text, str):
        events.append(TextDelta(text, index if type(index) is int and index >= 0 else 0))


def _add_probabilities(events: list[Event], item: Any) -> None:
    token = probability(item)
    if token is not None:
        events.append(LogProbabilities([token]))


def _add_usage(events: list[Event], usage: Any) -> None:
    counted = token_usage(usage)
    if counted is not None:
        events.append(UsageReported(counted))


def _failure(reason: Any) -> str | None:
    return _FAILURES.get(reason) if isinstance(reason, str) else None


def _finish_word(reason: Any, *, called: bool) -> str:
    word = _FINISHES.get(reason, str(reason)) if isinstance(reason, str) else str(reason)
    return "tool_calls" if called and word == "stop" else word  # version 1 has no word for it


def _failed(words: Any, scrub: Scrub) -> Failed:
    return Failed(stream_error(words if isinstance(words, dict | str) else {"message": str(words)}, scrub))
