"""What the lines and answers of an Ollama server mean. A stream is whole when the line with `done` has come, and not
before; an object with `error` in the middle of a 200 is a failure.

Source: https://docs.ollama.com/api/streaming and …/api/errors
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

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
from trio_ai_proxy.providers.error_words import Scrub, stream_error
from trio_ai_proxy.providers.loose import a_list, json_text
from trio_ai_proxy.providers.ollama_wire import Line, ToolCall, created, read, token_usage

if TYPE_CHECKING:
    from trio_ai_proxy.framing.frame import Frame

# What a line says that only loads or unloads a model: there was nothing to answer.
_REASONS = {"load": "stop", "unload": "stop"}


class OllamaDecoder:
    """A stage from lines to events, for one streamed answer to a chat or a completion."""

    def __init__(self, scrub: Scrub) -> None:
        self._scrub = scrub
        self._answer = _Answer()
        self._is_over = False

    def feed(self, item: Frame) -> list[Event]:
        data = item.data
        if self._is_over or data is None:
            return []
        try:
            line = read(data)
        except UpstreamProtocolError as error:
            if item.whole:
                raise
            raise TruncatedStream("The provider's stream stopped in the middle of a line.") from error
        if line.error:
            self._is_over = True
            return [Failed(stream_error({"error": line.error}, self._scrub))]
        answer = self._answer
        message = line.message
        if (
            message is not None
            and answer.has_started
            and not (line.done or message.thinking or message.tool_calls or line.logprobs or line.response)
            and isinstance(message.content, str)
            and message.content
        ):
            return [TextDelta(message.content)]  # as nearly every line; `_Answer` says the same, in more time
        events = answer.events(line)
        self._is_over = line.done is True
        return events

    def close(self) -> list[Event]:
        if self._is_over:
            return []
        self._is_over = True
        what = "the answer was finished" if self._answer.has_started else "the answer began"
        raise TruncatedStream(f"The provider's stream stopped before {what}.")


def read_answer(body: bytes, scrub: Scrub) -> list[Event]:
    """What a whole answer to a chat or a completion means. Raises `UpstreamProtocolError` if it is none."""
    line = read(body)
    if line.error:
        return [Failed(stream_error({"error": line.error}, scrub))]
    if line.message is None and line.response is None:
        raise UpstreamProtocolError("The provider's answer has neither a message nor a response.")
    if line.done is not True:
        raise UpstreamProtocolError("The provider's answer says that it is not done.")
    return _Answer().events(line)


def read_embeddings(body: bytes, inputs: int, scrub: Scrub) -> list[Event]:
    """What an answer of `/api/embed` to so many inputs means. Raises `UpstreamProtocolError` if it is none."""
    line = read(body)
    if line.error:
        return [Failed(stream_error({"error": line.error}, scrub))]
    vectors = a_list(line.embeddings)
    if len(vectors) != inputs:
        raise UpstreamProtocolError(f"The provider gave {len(vectors)} embeddings for {inputs} inputs.")
    events: list[Event] = [Started("", str(line.model or ""), created(line))]
    for index, vector in enumerate(vectors):
        if not _is_vector(vector):
            raise UpstreamProtocolError("The provider's answer has an embedding that is not a list of numbers.")
        events.append(Embedded(vector, index))
    usage = token_usage(line)
    if usage is not None:
        events.append(UsageReported(usage))
    events.append(Ended())
    return events


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) in (int, float) for number in value)


class _Answer:
    """One answer, as far as its lines have told it. There is one choice, number 0."""

    def __init__(self) -> None:
        self.has_started = False
        self._created_at = ""
        self._calls = 0

    def events(self, line: Line) -> list[Event]:
        events: list[Event] = []
        if not self.has_started and (line.model or line.message or line.response is not None or line.done):
            self.has_started = True
            self._created_at = str(line.created_at or "")
            events.append(Started("", str(line.model or ""), created(line)))
        thinking, content, calls = line.thinking, line.response, line.tool_calls
        if line.message is not None:
            thinking, content, calls = line.message.thinking, line.message.content, line.message.tool_calls
        if thinking and isinstance(thinking, str):
            events.append(ReasoningDelta(thinking))
        if content and isinstance(content, str):
            events.append(TextDelta(content))
        if line.logprobs:
            tokens = [_probability(token) for token in a_list(line.logprobs) if isinstance(token, dict)]
            if tokens:
                events.append(LogProbabilities(tokens))
        for call in calls or ():
            self._add_call(events, call)
        if line.done is True:
            self._add_end(events, line)
        return events

    def _add_call(self, events: list[Event], call: ToolCall) -> None:
        """A call comes whole. The order counts; the `index` that newer servers give says no more, and older ones have none."""
        function = call.function
        name = function.name if function is not None else None
        if not isinstance(name, str) or not name:
            return
        arguments = _arguments(function.arguments if function is not None else None)
        number, self._calls = self._calls, self._calls + 1
        call_id = call.id if isinstance(call.id, str) and call.id else self._made_up_id(number, name, arguments)
        events.append(ToolCallDelta(number, call_id, name, arguments))

    def _made_up_id(self, number: int, name: str, arguments: str) -> str:
        """An id for a call of an older server, which gives none: the same for the same answer, and another in every
        turn of a conversation."""
        said = "\0".join((self._created_at, str(number), name, arguments))
        return "call_" + blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def _add_end(self, events: list[Event], line: Line) -> None:
        # Older servers give no reason. Ollama's own OpenAI endpoint says "stop" there as well.
        reason = str(line.done_reason or "stop")
        reason = _REASONS.get(reason, reason)
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        events.append(Finished(reason))
        usage = token_usage(line)
        if usage is not None:
            events.append(UsageReported(usage))
        events.append(Ended())


def _arguments(value: Any) -> str:
    """The arguments of a call as JSON text. A text is taken to be JSON already."""
    if value is None or value == "":
        return "{}"
    return value if isinstance(value, str) else json_text(value) or "{}"


def _probability(token: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's form of Ollama's, which leaves empty fields out."""
    text, found = token.get("token"), a_list(token.get("top_logprobs"))
    return {
        "token": text if isinstance(text, str) else "",
        "logprob": token.get("logprob"),
        "bytes": token.get("bytes"),
        "top_logprobs": [
            {"token": other.get("token"), "logprob": other.get("logprob"), "bytes": other.get("bytes")}
            for other in found
            if isinstance(other, dict)
        ],
    }
