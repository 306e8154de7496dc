"""What the events and answers of the Messages API mean.

A stream is whole when `message_stop` came. An answer in one piece is read as the stream that would have brought it: one
reading serves both. Blocks of the provider's own tools (a web search, code that it ran) say nothing to the client; what the
answer cites of them does.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.errors import TruncatedStream, UpstreamProtocolError
from trio_ai_proxy.providers.anthropic_wire import Block, Count, Delta, Message, StreamEvent, read_event, read_message
from trio_ai_proxy.providers.error_words import Scrub, status_error, stream_error
from trio_ai_proxy.providers.loose import a_dict, a_list, a_text, json_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.errors import UpstreamError
    from trio_ai_proxy.framing.frame import Frame

ANSWER_TOOL = "json_answer"
"""The tool that a model is made to call where the API has no other way to JSON: its input is the answer's text."""

# A turn that the provider paused (`pause_turn`) or that filled the context window is cut short, not finished.
_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

# The status that each error has outside of a stream. Source: https://platform.claude.com/docs/en/api/errors
_STATUS: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


_SPEECH = ("content_block_start", "content_block_delta", "content_block_stop")


class AnthropicDecoder:
    """A stage from frames to events, for one streamed answer to `request`."""

    def __init__(self, request: ChatRequest, scrub: Scrub) -> None:
        self._scrub = scrub
        fields = request.fields
        self._wants_json = a_dict(fields.get("response_format")).get("type") in ("json_object", "json_schema")
        self._older_calls = bool(fields.get("functions")) and not fields.get("tools")
        self._is_over = False
        self._has_started = False
        self._has_finished = False
        self._answered_in_json = False
        self._answer_id = ""
        self._count = Count()
        self._blocks: dict[int | None, _Open] = {}
        self._calls = 0
        self._length = 0  # of the text so far, in characters: a citation says where it belongs

    def feed(self, item: Frame) -> list[Event]:
        if self._is_over:
            return []
        data = item.data
        if data is None:
            return []
        try:
            event = read_event(data)
        except UpstreamProtocolError as error:
            return self._feed_unusual(item, data.strip(), error)
        delta = event.delta
        if delta is not None and delta.type == "text_delta" and self._has_started:
            if self._has_finished:
                return []  # there is nothing to say any more
            text = delta.text
            if not isinstance(text, str) or not text:
                return []
            self._length += len(text)
            return [TextDelta(text)]
        return self._events(event)

    def close(self) -> list[Event]:
        if self._is_over:
            return []
        self._is_over = True
        if not self._has_started:
            raise TruncatedStream("The provider's stream stopped before the answer began.")
        raise TruncatedStream("The provider's stream stopped before the answer was finished.")

    def whole(self, message: Message, content: list[Block]) -> list[Event]:
        """The events of an answer that came in one piece."""
        events = self._start(message)
        for index, block in enumerate(content):
            events += self._open(index, block)
            events += self._close(index)
        events += self._finish(message.stop_reason, message.stop_details)
        self._count.add(message.usage)
        events.extend(self._usage())
        events.append(Ended())
        return events

    def _feed_unusual(self, frame: Frame, data: bytes, error: UpstreamProtocolError) -> list[Event]:
        """A frame that is no event of ours."""
        if frame.event == "error" and data:
            return [self._failed(data, data.decode("utf-8", "replace"))]
        if frame.event == "ping" or data in (b"", b"[DONE]"):  # the latter from those who speak OpenAI's wire as well
            return []
        if not frame.whole:
            raise TruncatedStream("The provider's stream stopped in the middle of a frame.") from error
        raise error

    def _events(self, event: StreamEvent) -> list[Event]:
        events: list[Event] = []
        if self._has_finished and event.type in _SPEECH:
            return []  # as above
        match event.type:
            case "content_block_delta" if event.delta is not None:
                events = self._more(event.index, event.delta)
            case "content_block_start" if event.content_block is not None:
                events = self._open(event.index, event.content_block)
            case "content_block_stop":
                events = self._close(event.index)
            case "message_start" if event.message is not None:
                return self._begin(event.message)
            case "message_delta":
                self._count.add(event.usage)
                if event.delta is not None:
                    events = self._finish(event.delta.stop_reason, event.delta.stop_details)
                # What is told before the end is told again at the end; until then our own count is nearer.
                if self._has_finished:
                    events.extend(self._usage())
            case "message_stop":
                self._is_over = True
                events = self._close_all()
                if not self._has_finished:
                    events.extend(self._usage())
                events.append(Ended())
            case kind:
                if kind == "error" or event.error:
                    events = [self._failed(_json(event.error), event.error)]
        if events and not self._has_started and not isinstance(events[0], Failed):
            self._has_started = True
            events.insert(0, Started("", ""))
        return events

    def _begin(self, message: Message) -> list[Event]:
        """A stream begins: the prompt has been counted, the answer is still to come."""
        self._count.add(message.usage, at_start=True)
        if self._has_started:
            return []
        events = self._start(message)
        prompt = self._count.at_start()
        if prompt is not None:
            events.append(UsageReported(prompt))
        return events

    def _start(self, message: Message) -> list[Event]:
        self._has_started = True
        self._answer_id = a_text(message.id)
        return [Started(self._answer_id, a_text(message.model))]

    # -- blocks ---------------------------------------------------------------------------------------------------------

    def _open(self, index: int | None, block: Block) -> list[Event]:
        events = self._close(index)
        kind = block.type
        if kind == "tool_use" and self._wants_json and block.name == ANSWER_TOOL:
            self._answered_in_json = True
            kind = "answer"
        opened = self._blocks[index] = _Open(kind, block, self._length)
        match kind:
            case "text":
                events += self._text(block.text)
                opened.citations += a_list(block.citations)
            case "thinking":
                if a_text(block.thinking):
                    events.append(ReasoningDelta(block.thinking))
                opened.signature = a_text(block.signature)
            case "redacted_thinking" if a_text(block.data):
                events.append(ReasoningSealed(redacted=block.data))
            case "tool_use":
                opened.call = self._calls
                self._calls += 1
                call_id = a_text(block.id) or f"call_{self._answer_id}_{opened.call}"
                events.append(ToolCallDelta(opened.call, call_id, a_text(block.name)))
            case _:
                pass
        return events

    def _more(self, index: int | None, delta: Delta) -> list[Event]:
        if delta.type == "text_delta":
            return self._text(delta.text)
        if delta.type == "thinking_delta":
            return [ReasoningDelta(delta.thinking)] if a_text(delta.thinking) else []
        opened = self._blocks.get(index)
        if opened is None:
            return []
        match delta.type:
            case "input_json_delta" if a_text(delta.partial_json):
                return self._input(opened, delta.partial_json)
            case "signature_delta":
                opened.signature = a_text(delta.signature)
            case "citations_delta":
                opened.citations.append(delta.citation)
            case _:
                pass
        return []

    def _close(self, index: int | None) -> list[Event]:
        opened = self._blocks.pop(index, None)
        if opened is None:
            return []
        events: list[Event] = []
        if opened.kind in ("tool_use", "answer") and not opened.has_input:
            events = self._input(opened, _object(opened.input))
        if opened.kind == "thinking" and opened.signature:
            events.append(ReasoningSealed(opened.signature))
        for citation in opened.citations:
            events.append(_cited(a_dict(citation), opened.start, self._length))
        return events

    def _close_all(self) -> list[Event]:
        return [event for index in list(self._blocks) for event in self._close(index)]

    def _text(self, text: Any) -> list[Event]:
        if not a_text(text):
            return []
        self._length += len(text)
        return [TextDelta(text)]

    def _input(self, opened: _Open, fragment: str) -> list[Event]:
        opened.has_input = True
        if opened.kind == "answer":
            return self._text(fragment)
        return [ToolCallDelta(opened.call, arguments=fragment)] if opened.kind == "tool_use" else []

    # -- the end --------------------------------------------------------------------------------------------------------

    def _finish(self, reason: Any, details: Any) -> list[Event]:
        if not a_text(reason) or self._has_finished:
            return []
        self._has_finished = True
        events = self._close_all()
        explanation = a_text(a_dict(details).get("explanation"))
        if reason == "refusal" and explanation:
            events.append(RefusalDelta(explanation))
        said = _REASONS.get(reason, reason)
        if said == "tool_calls":
            if self._answered_in_json and not self._calls:
                said = "stop"
            elif self._older_calls:
                said = "function_call"
        events.append(Finished(said))
        return events

    def _usage(self) -> list[Event]:
        usage = self._count.usage()
        return [UsageReported(usage)] if usage is not None else []

    def _failed(self, data: bytes, words: Any) -> Failed:
        self._is_over = True
        return Failed(_error(data, words, self._scrub))


class _Open:
    """A block under way."""

    __slots__ = ("call", "citations", "has_input", "input", "kind", "signature", "start")

    def __init__(self, kind: Any, block: Block, start: int) -> None:
        self.kind = kind
        self.input = block.input
        self.start = start
        self.call = 0
        self.has_input = False
        self.signature = ""
        self.citations: list[Any] = []


def read_answer(request: ChatRequest, body: bytes, scrub: Scrub) -> list[Event]:
    """What a whole answer means. Raises `UpstreamProtocolError` if it is none."""
    message = read_message(body)
    if message.error or message.type == "error":
        return [Failed(_error(_json(message.error), message.error, scrub))]
    if message.content is None:
        raise UpstreamProtocolError("The provider's answer has no content.")
    return AnthropicDecoder(request, scrub).whole(message, message.content)


def _error(data: bytes, words: Any, scrub: Scrub) -> UpstreamError:
    """The error that `words` tell, or `data` where it is no JSON: as if it had come with the status of its type."""
    status = _STATUS.get(a_text(a_dict(words).get("type")))
    if status is not None:
        return status_error(status, {}, data, scrub)
    return stream_error({"error": words} if words else None, scrub)


def _cited(citation: dict[str, Any], start: int, end: int) -> Cited:
    """Where the text from `start` to `end` is from: a page of the web, or a document of the request, which is known by its
    number or by its id."""
    url, source = a_text(citation.get("url")), a_text(citation.get("source")) or a_text(citation.get("file_id"))
    if source.startswith(("https://", "http://")):  # a search result that the request brought along
        url, source = url or source, ""
    number = citation.get("document_index")
    if not url and not source and isinstance(number, int):
        source = str(number)
    title = a_text(citation.get("title")) or a_text(citation.get("document_title"))
    return Cited(url, title, source, a_text(citation.get("cited_text")), start, end)


def _object(value: Any) -> str:
    """A tool's input as JSON; none is an empty object."""
    if not isinstance(value, dict):
        return "{}"
    try:
        return json_text(value) or "{}"
    except (ValueError, OverflowError):  # a number that no 64 bits hold
        return "{}"


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode({"error": value})
    except (RecursionError, ValueError, OverflowError):
        return b"{}"
