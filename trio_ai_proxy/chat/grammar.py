"""Which sequences of events can be the story of one answer. Looks on, and never changes what it sees.

For tests of decoders, and at run time where `validate_streams` is on: then a sentence goes into the log and the stream
goes on. The sentences speak of kinds and numbers, never of what was said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from trio_ai_proxy.chat.events import (
    Cited,
    Embedded,
    Ended,
    Event,
    Failed,
    Finished,
    LogProbabilities,
    Moderated,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)

if TYPE_CHECKING:
    from trio_ai_proxy.chat.usage import TokenUsage

# An answer that was cut short may hold half a call.
_CUT_SHORT = frozenset({"length", "content_filter"})


class IllegalSequence(Exception):
    """An event that cannot stand where it stands: a mistake in a decoder, or in what a provider sends. It is for those who
    look on; no client is ever told."""


class EventGrammar:
    """A validator of one answer's events.

    - `Started` comes first and once. Only an answer that is nothing but a failure, or nothing at all, does without.
    - A choice is open from its first event to its `Finished`, which is said once; nothing of it follows.
    - Deltas are not empty. Calls of tools are numbered from 0 as they appear; the first fragment of each has its id and name,
      later ones neither or the same; joined, the arguments are a JSON object, unless the choice was cut short. (OpenAI's
      older form, whose word at the end is `function_call`, has no ids.)
    - A citation's place is in the text that was said by the end of its choice.
    - Usage may be reported at any time, and holds together: the parts are not more than the whole.
    - `Failed` or `Ended` comes last. At `Ended`, each choice has its `Finished` where `reasons_required`: a whole document or
      a `[DONE]` of OpenAI's wire may leave it out.
    """

    def __init__(self, *, reasons_required: bool = True) -> None:
        self._reasons_required = reasons_required
        self._has_started = False
        self._last: str | None = None
        self._choices: dict[int, _Choice] = {}
        self._inputs: dict[str, int] = {}  # what was said of the request's inputs, and of how many

    def feed(self, event: Event) -> None:
        """Take the next event. Raises `IllegalSequence` if it cannot stand here."""
        name = type(event).__name__
        if self._last is not None:
            raise IllegalSequence(f"{name} after {self._last}")
        match event:
            case Started():
                if self._has_started:
                    raise IllegalSequence("Started for the second time")
                self._has_started = True
                return
            case Failed() | Ended():
                self._last = name
                if isinstance(event, Ended):
                    self._end()
                return
            case _:
                if not self._has_started:
                    raise IllegalSequence(f"{name} before Started")
        match event:
            case UsageReported():
                _check_usage(event.usage)
            case Embedded() | Moderated():
                self._input(event)
            case _:
                self._choice(event.index, name).take(event)

    def close(self) -> None:
        """The sequence is over. Raises `IllegalSequence` if it ends without an end."""
        if self._last is None:
            raise IllegalSequence("the sequence stops without Ended or Failed")

    def _choice(self, index: int, name: str) -> _Choice:
        for other in self._inputs:
            raise IllegalSequence(f"{name} in an answer with {other}")
        choice = self._choices.get(index)
        if choice is None:
            if index < 0:
                raise IllegalSequence(f"{name} of choice {index}")
            choice = self._choices[index] = _Choice(index)
        return choice

    def _input(self, event: Embedded | Moderated) -> None:
        name = type(event).__name__
        if self._choices:
            raise IllegalSequence(f"{name} in an answer with choices")
        for other in self._inputs.keys() - {name}:
            raise IllegalSequence(f"{name} in an answer with {other}")
        due = self._inputs.get(name, 0)
        if event.index != due:
            raise IllegalSequence(f"{name} of input {event.index} where {due} is next")
        if not (event.vector if isinstance(event, Embedded) else event.result):
            raise IllegalSequence(f"{name} of input {event.index} is empty")
        self._inputs[name] = due + 1

    def _end(self) -> None:
        for choice in self._choices.values():
            if not choice.is_finished:
                if self._reasons_required:
                    raise IllegalSequence(f"Ended, and choice {choice.index} has no Finished")
                choice.finish(None)


class _Choice:
    """What has been said of one choice."""

    __slots__ = ("calls", "index", "is_finished", "last_place", "text_length")

    def __init__(self, index: int) -> None:
        self.index = index
        self.is_finished = False
        self.text_length = 0
        self.last_place = 0  # the end of the citation that reaches farthest
        self.calls: list[_Call] = []

    def take(
        self,
        event: TextDelta
        | ReasoningDelta
        | ReasoningSealed
        | RefusalDelta
        | ToolCallDelta
        | Cited
        | LogProbabilities
        | Finished,
    ) -> None:
        if self.is_finished:
            raise self._wrong(f"{type(event).__name__} after Finished")
        match event:
            case TextDelta() | ReasoningDelta() | RefusalDelta():
                if not event.text:
                    raise self._wrong(f"an empty {type(event).__name__}")
                if isinstance(event, TextDelta):
                    self.text_length += len(event.text)
            case ReasoningSealed():
                if bool(event.signature) == bool(event.redacted):
                    raise self._wrong("ReasoningSealed needs one of signature and redacted")
            case ToolCallDelta():
                self._call(event)
            case Cited():
                if not 0 <= event.start <= event.end:
                    raise self._wrong(f"Cited from {event.start} to {event.end}")
                if not (event.url or event.title or event.source or event.quote):
                    raise self._wrong("Cited without a source")
                self.last_place = max(self.last_place, event.end)
            case LogProbabilities():
                if not event.tokens or not all(isinstance(token.get("token"), str) for token in event.tokens):
                    raise self._wrong("LogProbabilities without tokens")
            case Finished():
                if not event.reason:
                    raise self._wrong("Finished without a reason")
                if event.reason == "error":  # clients of OpenAI's wire take it for a failure, which is said by `Failed`
                    raise self._wrong("Finished with an error")
                self.finish(event.reason)
            case _:
                assert_never(event)

    def finish(self, reason: str | None) -> None:
        """The choice is over, with the word that was given for it."""
        self.is_finished = True
        if self.last_place > self.text_length:
            raise self._wrong(f"Cited up to character {self.last_place} of {self.text_length}")
        if reason == "tool_calls" and not self.calls:
            raise self._wrong("Finished with tool_calls, and none was called")
        for number, call in enumerate(self.calls):
            if not call.id and reason != "function_call":
                raise self._wrong(f"call {number} has no id")
            if reason not in _CUT_SHORT and not call.is_whole():
                raise self._wrong(f"the arguments of call {number} are no JSON object")
        ids = [call.id for call in self.calls if call.id]
        if len(set(ids)) != len(ids):
            raise self._wrong("two calls have one id")
        self.calls.clear()

    def _call(self, event: ToolCallDelta) -> None:
        number = event.call
        if number == len(self.calls):
            if not event.name:
                raise self._wrong(f"the first fragment of call {number} has no name")
            self.calls.append(_Call(event.id, event.name))
        elif not 0 <= number < len(self.calls):
            raise self._wrong(f"a fragment of call {number} where {len(self.calls)} is next")
        else:
            call = self.calls[number]
            if (event.id and event.id != call.id) or (event.name and event.name != call.name):
                raise self._wrong(f"call {number} has changed its id or name")
            if not (event.arguments or event.signature):
                raise self._wrong(f"an empty fragment of call {number}")
        self.calls[number].arguments.append(event.arguments)

    def _wrong(self, what: str) -> IllegalSequence:
        return IllegalSequence(f"choice {self.index}: {what}")


class _Call:
    """One call of a tool, as far as it has been told."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self, id: str, name: str) -> None:
        self.id = id
        self.name = name
        self.arguments: list[str] = []

    def is_whole(self) -> bool:
        try:
            return isinstance(msgspec.json.decode("".join(self.arguments)), dict)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return False


def _check_usage(usage: TokenUsage) -> None:
    counts = (
        usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cached_tokens, usage.reasoning_tokens,
        usage.cache_write_tokens,
    )  # fmt: skip
    if min(counts) < 0:
        raise IllegalSequence("UsageReported with a negative number")
    if usage.cached_tokens + usage.cache_write_tokens > usage.prompt_tokens:
        raise IllegalSequence("UsageReported with more tokens in the cache than in the prompt")
    if usage.reasoning_tokens > usage.completion_tokens:
        raise IllegalSequence("UsageReported with more reasoning than completion")
