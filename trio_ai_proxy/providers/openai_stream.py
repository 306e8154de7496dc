"""What the frames and answers of an OpenAI-compatible service mean. Tolerant of every null and gap that such services
send, and strict about the end: a stream is whole only when each choice that began has its finish reason, or `[DONE]`
came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trio_ai_proxy.chat.events import Ended, Event, Failed, Finished, Started, TextDelta, UsageReported
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamProtocolError
from trio_ai_proxy.providers.error_words import Scrub, stream_error
from trio_ai_proxy.providers.loose import count
from trio_ai_proxy.providers.openai_judgements import read_judgements
from trio_ai_proxy.providers.openai_said import Speech, add_probabilities, add_text
from trio_ai_proxy.providers.openai_vectors import read_vectors
from trio_ai_proxy.providers.openai_wire import Answer, read, token_usage

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.framing.frame import Frame


class OpenAIDecoder:
    """A stage from frames to events, for one streamed answer."""

    def __init__(self, operation: Operation, scrub: Scrub) -> None:
        self._is_chat = operation == "chat"
        self._scrub = scrub
        self._has_started = False
        self._is_over = False
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._speech = Speech()

    def feed(self, item: Frame) -> list[Event]:
        if self._is_over:
            return []
        data = item.data
        try:
            if item.event or data is None or data[:1] != b"{":
                return self._feed_unusual(item)
            chunk = read(data)
        except UpstreamProtocolError as error:
            if item.whole:
                raise
            raise TruncatedStream("The provider's stream stopped in the middle of a frame.") from error
        return self._more_text(chunk) or self._events(chunk)

    def close(self) -> list[Event]:
        if self._is_over:
            return []
        self._is_over = True
        if self._open:
            raise TruncatedStream("The provider's stream stopped before the answer was finished.")
        if not self._finished:
            raise TruncatedStream("The provider's stream stopped before the answer began.")
        return [Ended()]

    def _more_text(self, chunk: Answer) -> list[Event] | None:
        """The events of a chunk that brings more text of a choice under way and nothing else; None for any other.

        Nearly every chunk of every stream is such. `_events` gives the same, in more time.
        """
        if not chunk.choices or len(chunk.choices) != 1 or chunk.usage or chunk.error or chunk.x_groq:
            return None
        choice = chunk.choices[0]
        index, said = choice.index, choice.delta
        if (
            index in self._open
            and index is not None
            and said is not None
            and not (choice.finish_reason or choice.error or choice.usage or choice.logprobs)
            and not (said.reasoning_content or said.reasoning or said.refusal or said.tool_calls or said.function_call)
            and not (said.thinking_blocks or said.annotations)
            and isinstance(said.content, str)
            and said.content
            and self._is_chat
        ):
            return [TextDelta(said.content, index)]
        return None

    def _feed_unusual(self, frame: Frame) -> list[Event]:
        """A frame that is not simply a chunk of JSON."""
        data = frame.data
        if data is None:
            # llama.cpp's server, until it changed to `data: {"error": …}`, reported an error in a field of that name.
            if frame.raw.startswith(b"error:"):
                return self._fail_with(frame.raw[len(b"error:") :])
            return []
        stripped = data.strip()
        if stripped == b"[DONE]":
            self._is_over = True
            return [Ended()]
        if frame.event == "ping" or not stripped:
            return []
        if frame.event == "error":
            return self._fail_with(stripped)
        return self._events(read(stripped))

    def _fail_with(self, words: bytes) -> list[Event]:
        try:
            payload = msgspec.json.decode(words)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            payload = words.decode("utf-8", "replace").strip()
        return [self._failed(stream_error(payload, self._scrub))]

    def _failed(self, error: UpstreamError) -> Failed:
        self._is_over = True
        return Failed(error)

    def _events(self, chunk: Answer) -> list[Event]:
        events: list[Event] = []
        if not self._has_started and _begins(chunk):
            self._has_started = True
            events.append(_started(chunk))
            self._speech.answer_id = str(chunk.id or "")
        for choice in chunk.choices or ():
            index = choice.index or 0
            if index in self._finished:
                continue  # a choice that is over says no more, whatever else is in the chunk
            if not self._is_chat:
                add_text(events, choice.text, index)
            elif choice.delta is not None:
                self._speech.add(events, choice.delta, index)
            if choice.logprobs and self._is_chat:
                add_probabilities(events, choice.logprobs, index)
            if choice.finish_reason:
                self._open.discard(index)
                self._finished.add(index)
                self._speech.finish(events, str(choice.finish_reason), index)
            elif self._has_started:
                self._open.add(index)
        error = _error(chunk, self._scrub)
        if error is not None:
            self._is_over = True
            return [*(event for event in events if not isinstance(event, Finished)), Failed(error)]
        _add_usage(events, chunk)
        return events


def read_answer(operation: Operation, body: bytes, scrub: Scrub) -> list[Event]:
    """What a whole answer means. Raises `UpstreamProtocolError` if it is none.

    A choice without a finish reason gets no `Finished`: the document is whole, but we do not make up a word for it.
    """
    answer = read(body)
    error = _error(answer, scrub)
    if error is not None:
        return [Failed(error)]
    if operation == "embeddings":
        return read_vectors(body, _started(answer), answer.usage)
    if operation == "moderations":
        return read_judgements(body, _started(answer), answer.usage)
    if not answer.choices:
        raise UpstreamProtocolError("The provider's answer has no choices.")
    events: list[Event] = [_started(answer)]
    speech = Speech()
    speech.answer_id = str(answer.id or "")
    for position, choice in enumerate(answer.choices):
        index = position if choice.index is None else choice.index
        if operation == "completions":
            add_text(events, choice.text, index)
        elif choice.message is not None:
            speech.add(events, choice.message, index)
        if choice.logprobs and operation == "chat":
            add_probabilities(events, choice.logprobs, index)
        if choice.finish_reason:
            speech.finish(events, str(choice.finish_reason), index)
    _add_usage(events, answer)
    events.append(Ended())
    return events


def _begins(chunk: Answer) -> bool:
    """Whether the answer has begun with this chunk. Azure sends what its filter says of the prompt, and of text to come, in
    chunks without an id, a model and a delta."""
    if chunk.id or chunk.model:
        return True
    return any(
        choice.delta is not None or choice.text is not None or choice.finish_reason for choice in chunk.choices or ()
    )


def _started(answer: Answer) -> Started:
    fingerprint = answer.system_fingerprint
    return Started(
        id=str(answer.id or ""),
        model=str(answer.model or ""),
        created=count(answer.created),
        system_fingerprint=fingerprint if isinstance(fingerprint, str) else None,
    )


def _add_usage(events: list[Event], answer: Answer) -> None:
    usage = answer.usage
    if usage is None and answer.x_groq is not None:
        usage = answer.x_groq.usage
    if usage is None and answer.choices:
        usage = answer.choices[-1].usage
    counted = token_usage(usage) if usage is not None else None
    if counted is not None:
        events.append(UsageReported(counted))


def _error(answer: Answer, scrub: Scrub) -> UpstreamError | None:
    """The error that a chunk or an answer carries, in any of the places where services put it."""
    words = answer.error
    if not words and answer.x_groq is not None:
        words = answer.x_groq.error
    if not words and answer.object == "error":
        words = {"message": answer.message, "type": answer.type, "code": answer.code}
    for choice in () if words else answer.choices or ():
        words = choice.error or (choice.finish_reason == "error" and "The provider ended its answer with an error.")
        if words:
            break
    return stream_error(words, scrub) if words else None
