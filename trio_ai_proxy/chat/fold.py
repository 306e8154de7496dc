"""Events → one whole answer: the same events that stream, gathered for a client that wants them at once.

What was not said is not made up: a choice without a finish reason has None, an answer without usage has None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, assert_never

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


@dataclass(slots=True)
class ToolCall:
    """One call of a tool. `arguments` is JSON as the model wrote it, which need not be valid."""

    id: str
    name: str
    arguments: str
    signature: str = ""


@dataclass(slots=True)
class Thought:
    """One block of thinking that the provider wants back: its text and signature, or `redacted` alone."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


@dataclass(slots=True)
class Choice:
    """One of the answers that were asked for."""

    index: int
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: str | None = None
    thoughts: list[Thought] = field(default_factory=list)
    citations: list[Cited] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """A whole answer. `created` is in seconds since the epoch, 0 if the provider did not say."""

    id: str
    model: str
    created: int = 0
    system_fingerprint: str | None = None
    choices: list[Choice] = field(default_factory=list)
    usage: TokenUsage | None = None
    embeddings: list[list[float] | str] = field(default_factory=list)
    moderations: list[dict[str, Any]] = field(default_factory=list)


class Fold:
    """Gathers events. Deltas are joined once, at the end: the cost grows with their number and not with its square."""

    def __init__(self) -> None:
        self._started = Started(id="", model="")
        self._choices: dict[int, _Parts] = {}
        self._usage: TokenUsage | None = None
        self._embeddings: dict[int, list[float] | str] = {}
        self._moderations: dict[int, dict[str, Any]] = {}

    def add(self, event: Event) -> None:
        """Take one event. `Failed` and `Ended` say nothing about content; they are for the caller to act on."""
        match event:
            case TextDelta():
                self._choice(event.index).text.append(event.text)
            case ReasoningDelta():
                self._choice(event.index).reasoning.append(event.text)
            case ReasoningSealed():
                self._choice(event.index).seal(event)
            case RefusalDelta():
                self._choice(event.index).refusal.append(event.text)
            case ToolCallDelta():
                self._choice(event.index).add_call(event)
            case Cited():
                self._choice(event.index).citations.append(event)
            case LogProbabilities():
                self._choice(event.index).logprobs += event.tokens
            case Embedded():
                self._embeddings[event.index] = event.vector
            case Moderated():
                self._moderations[event.index] = event.result
            case Finished():
                self._choice(event.index).finish_reason = event.reason
            case Started():
                self._started = event
            case UsageReported():
                self._usage = event.usage
            case Failed() | Ended():
                pass
            case _:
                assert_never(event)

    def answer(self, *, model: str | None = None) -> Answer:
        """What was gathered so far. `model` stands in for the provider's name of it, if given."""
        started = self._started
        return Answer(
            id=started.id,
            model=started.model if model is None else model,
            created=started.created,
            system_fingerprint=started.system_fingerprint,
            choices=[parts.choice(index) for index, parts in sorted(self._choices.items())],
            usage=self._usage,
            embeddings=[vector for _, vector in sorted(self._embeddings.items())],
            moderations=[result for _, result in sorted(self._moderations.items())],
        )

    def _choice(self, index: int) -> _Parts:
        parts = self._choices.get(index)
        if parts is None:
            parts = self._choices[index] = _Parts()
        return parts


class _Parts:
    """The fragments of one choice."""

    __slots__ = (
        "calls", "citations", "finish_reason", "logprobs", "reasoning", "refusal", "signatures", "text", "thoughts",
        "thoughts_end",
    )  # fmt: skip

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.calls: dict[int, tuple[list[str], list[str], list[str]]] = {}
        self.signatures: dict[int, str] = {}
        self.finish_reason: str | None = None
        self.thoughts: list[Thought] = []
        self.thoughts_end = 0  # how many fragments of `reasoning` the blocks before hold
        self.citations: list[Cited] = []
        self.logprobs: list[dict[str, Any]] = []

    def seal(self, event: ReasoningSealed) -> None:
        if event.redacted:
            self.thoughts.append(Thought(redacted=event.redacted))
            return
        self.thoughts.append(Thought("".join(self.reasoning[self.thoughts_end :]), event.signature))
        self.thoughts_end = len(self.reasoning)

    def add_call(self, delta: ToolCallDelta) -> None:
        ids, names, arguments = self.calls.setdefault(delta.call, ([], [], []))
        # The id and the name come whole with the first fragment; some services repeat them with every one.
        if delta.id and not ids:
            ids.append(delta.id)
        if delta.name and not names:
            names.append(delta.name)
        arguments.append(delta.arguments)
        if delta.signature:
            self.signatures[delta.call] = delta.signature

    def choice(self, index: int) -> Choice:
        return Choice(
            index=index,
            text="".join(self.text),
            reasoning="".join(self.reasoning),
            refusal="".join(self.refusal),
            tool_calls=[
                ToolCall("".join(ids), "".join(names), "".join(arguments), self.signatures.get(call, ""))
                for call, (ids, names, arguments) in sorted(self.calls.items())
            ],
            finish_reason=self.finish_reason,
            thoughts=self.thoughts,
            citations=self.citations,
            logprobs=self.logprobs,
        )
