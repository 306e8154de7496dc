"""What the frames and answers of Gemini mean. Strict about the end: a stream has no terminal of its own, so it is whole only
when each candidate that began was given its reason for finishing.

That reason is told when the stream is over and not before: some models, and services that stand in between, write `STOP`
into chunks that are followed by more text.
Source: https://ai.google.dev/api/generate-content#FinishReason
"""

from __future__ import annotations

from hashlib import blake2s
from typing import TYPE_CHECKING

from trio_ai_proxy.chat.events import (
    Ended,
    Event,
    Failed,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamProtocolError
from trio_ai_proxy.providers.gemini_errors import failed
from trio_ai_proxy.providers.gemini_sources import Sources, log_probabilities
from trio_ai_proxy.providers.gemini_turns import MARK
from trio_ai_proxy.providers.gemini_wire import Answer, Blob, Candidate, FunctionCall, Part, read, seconds, token_usage
from trio_ai_proxy.providers.loose import a_text, json_text

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame
    from trio_ai_proxy.providers.error_words import Scrub

_REASONS = {
    "STOP": "stop",
    "FUNCTION_CALL": "stop",  # not Google's, whose word is STOP here too; some who imitate it say so
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        (
            "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION", "PUP_LIMITED_DISABLED", "MODEL_ARMOR",
        ),
        "content_filter",
    ),
}  # fmt: skip

# The model began to call a tool and did not manage to: what there is of the answer is not the answer.
_FAILURES = frozenset(
    {
        "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
    }
)  # fmt: skip
_UNSAID = ("", "FINISH_REASON_UNSPECIFIED")
_NO_BLOCK = ("", "BLOCKED_REASON_UNSPECIFIED")


class _Choice:
    """One candidate so far."""

    __slots__ = ("calls", "finish", "finish_message", "sources", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.calls = 0
        self.finish = ""  # of the last chunk that said anything
        self.finish_message = ""
        self.sources = Sources()


class GeminiDecoder:
    """A stage from frames to events, for one streamed answer to `request`."""

    def __init__(self, request: ChatRequest, scrub: Scrub) -> None:
        fields = request.fields
        self._calls_word = "function_call" if fields.get("functions") and not fields.get("tools") else "tool_calls"
        self._scrub = scrub
        self._started: Started | None = None
        self._is_over = False
        self._blocked = False
        self._choices: dict[int, _Choice] = {}
        self._usage: TokenUsage | None = None
        self._held: TokenUsage | None = None  # counts without what was generated: all there is only if nothing follows
        self._prompt = 0  # what has been told of it alone

    def feed(self, item: Frame) -> list[Event]:
        data = item.data
        if self._is_over or data is None:
            return []
        stripped = data.strip()
        if not stripped or stripped == b"[DONE]":  # not Gemini's; services that stand in between write it
            return []
        try:
            chunk = read(stripped)
        except UpstreamProtocolError as error:
            if item.whole:
                raise
            raise TruncatedStream("The provider's stream stopped in the middle of a frame.") from error
        events = self.take(chunk)
        if self._held is not None:
            self._tell_prompt(self._held, events)
        return events

    def close(self) -> list[Event]:
        if self._is_over:
            return []
        self._is_over = True
        if any(choice.finish in _UNSAID for choice in self._choices.values()):
            raise TruncatedStream("The provider's stream stopped before the answer was finished.")
        if not self.has_begun:
            raise TruncatedStream("The provider's stream stopped before the answer began.")
        events = self.finish()
        return events if events and isinstance(events[-1], Failed) else [*events, Ended()]

    @property
    def has_begun(self) -> bool:
        """Whether there is a candidate, or the word that there will be none."""
        return bool(self._choices) or self._blocked

    def take(self, chunk: Answer) -> list[Event]:
        """The events of one chunk, but for those of the end."""
        events: list[Event] = []
        if chunk.error:
            self._is_over = True
            return [Failed(failed(chunk.error, self._scrub))]
        if self._started is None and (chunk.candidates or chunk.prompt_feedback or chunk.response_id):
            self._started = Started(
                id=a_text(chunk.response_id), model=a_text(chunk.model_version), created=seconds(chunk.create_time)
            )
            events.append(self._started)
        candidates = chunk.candidates or ()
        if len(candidates) == 1:
            self._take_candidate(candidates[0], candidates[0].index or 0, events)
        elif candidates:
            # What is 0 is left out in Google's JSON; where no candidate has an index, their order is what there is.
            ordered = all(candidate.index is None for candidate in candidates)
            for position, candidate in enumerate(candidates):
                self._take_candidate(candidate, position if ordered else candidate.index or 0, events)
        feedback = chunk.prompt_feedback
        if feedback is not None and not candidates and a_text(feedback.block_reason) not in _NO_BLOCK:
            self._block(a_text(feedback.block_reason_message), events)
        if chunk.usage_metadata is not None:
            usage = token_usage(chunk.usage_metadata)
            if usage is not None and usage != self._usage:
                # A running total; the last one counts.
                if usage.completion_tokens:
                    self._usage, self._held = usage, None
                    events.append(UsageReported(usage))
                else:
                    self._held = usage
        return events

    def _tell_prompt(self, held: TokenUsage, events: list[Event]) -> None:
        """What `held` says of the prompt is true already, and the client may leave before the rest is told."""
        if self._started is not None and self._usage is None and held.prompt_tokens != self._prompt:
            self._prompt = held.prompt_tokens
            events.append(UsageReported(TokenUsage(held.prompt_tokens, cached_tokens=held.cached_tokens)))

    def finish(self) -> list[Event]:
        """The events of the end: sources, usage that was held back, and the reason of each candidate that has one."""
        events: list[Event] = []
        failures: list[Event] = []
        for index, choice in sorted(self._choices.items()):
            events += choice.sources.cited("".join(choice.text), index)
            reason = choice.finish
            if reason in _FAILURES:
                failures.append(Failed(self._failure(choice)))
            elif reason not in _UNSAID:
                word = _REASONS.get(reason, reason)
                events.append(Finished(self._calls_word if choice.calls and word == "stop" else word, index))
        if self._held is not None and self._usage is None:
            events.append(UsageReported(self._held))
        # Of candidates of which one failed, none is called finished.
        return [*(event for event in events if not isinstance(event, Finished)), failures[0]] if failures else events

    def _failure(self, choice: _Choice) -> UpstreamError:
        words = self._scrub(choice.finish_message)[:500]
        what = f"The model did not finish its answer ({choice.finish})"
        return UpstreamError(f"{what}: {words}" if words else f"{what}.", code=choice.finish.lower())

    def _block(self, message: str, events: list[Event]) -> None:
        """The prompt was refused: no candidate comes."""
        if self._blocked or self._choices:
            return
        self._blocked = True
        if message:
            events.append(RefusalDelta(self._scrub(message)))
        events.append(Finished("content_filter"))

    def _take_candidate(self, candidate: Candidate, index: int, events: list[Event]) -> None:
        if self._blocked:
            return
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        before = len(events)
        if candidate.content is not None:
            for part in candidate.content.parts or ():
                self._take_part(part, choice, index, events)
        reason = candidate.finish_reason
        if reason and isinstance(reason, str) and reason not in _UNSAID:
            choice.finish = reason
            choice.finish_message = a_text(candidate.finish_message)
        elif len(events) > before:
            choice.finish = ""
        if candidate.grounding_metadata is not None:
            choice.sources.add_grounding(candidate.grounding_metadata)
        if candidate.citation_metadata is not None:
            choice.sources.add_citations(candidate.citation_metadata)
        if candidate.logprobs_result is not None:
            tokens = log_probabilities(candidate.logprobs_result)
            if tokens:
                events.append(LogProbabilities(tokens, index))

    def _take_part(self, part: Part, choice: _Choice, index: int, events: list[Event]) -> None:
        text, signature = part.text, part.thought_signature
        if text and isinstance(text, str):
            if part.thought is True:
                events.append(ReasoningDelta(text, index))
            else:
                _add_text(text, choice, index, events)
        if part.function_call is not None:
            self._take_call(part.function_call, a_text(signature), choice, index, events)
        elif signature and isinstance(signature, str):
            events.append(ReasoningSealed(signature=MARK + signature, index=index))
        if part.inline_data is not None:
            _add_text(_image(part.inline_data), choice, index, events)
        if part.executable_code is not None:
            language = a_text(part.executable_code.language).lower()
            _add_text(_fenced(a_text(part.executable_code.code), language), choice, index, events)
        if part.code_execution_result is not None:
            _add_text(_fenced(a_text(part.code_execution_result.output), ""), choice, index, events)

    def _take_call(self, call: FunctionCall, signature: str, choice: _Choice, index: int, events: list[Event]) -> None:
        name, number = a_text(call.name), choice.calls
        arguments = json_text(call.args) if isinstance(call.args, dict) else "{}"
        choice.calls += 1
        call_id = a_text(call.id) or self._made_up_id(index, number, name, arguments)
        events.append(ToolCallDelta(number, call_id, name, arguments, index, signature))

    def _made_up_id(self, index: int, number: int, name: str, arguments: str) -> str:
        """The same for the same answer, streamed or not, and another for every other one."""
        answer = self._started.id if self._started is not None else ""
        words = "\0".join((answer, str(index), str(number), name, arguments)).encode("utf-8", "surrogatepass")
        return f"call_{blake2s(words, digest_size=12).hexdigest()}"


def read_answer(request: ChatRequest, body: bytes, scrub: Scrub) -> list[Event]:
    """What a whole answer means. Raises `UpstreamProtocolError` if it is none.

    A candidate without a reason for finishing gets no `Finished`: the document is whole, but we do not make up a word for it.
    """
    decoder = GeminiDecoder(request, scrub)
    events = decoder.take(read(body))
    if any(isinstance(event, Failed) for event in events):
        return events
    if not decoder.has_begun:
        raise UpstreamProtocolError("The provider's answer has no candidates.")
    events += decoder.finish()
    if not isinstance(events[-1], Failed):
        events.append(Ended())
    return events


def _add_text(text: str, choice: _Choice, index: int, events: list[Event]) -> None:
    if text:
        choice.text.append(text)
        events.append(TextDelta(text, index))


def _image(blob: Blob) -> str:
    """An image that the model made, in the one place that a chat completion has for it: its text."""
    media_type, data = a_text(blob.mime_type), a_text(blob.data)
    return f"![image](data:{media_type};base64,{data})" if media_type.startswith("image/") and data else ""


def _fenced(text: str, language: str) -> str:
    return f"\n```{language if language.isalpha() else ''}\n{text.rstrip()}\n```\n" if text.strip() else ""
