"""Where a restarted answer is joined on: it is swallowed exactly as far as it says again what the client has been given.

Pure. Where it says something else there is no honest way to go on. A choice whose end was given is whole, and whatever is said
of it again is nothing. What was thought aloud is not compared: a model never thinks twice alike, and the client is not
shown a second thought.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from trio_ai_proxy.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_ai_proxy.chat.events import Event


class Diverged(UpstreamError):
    """A restarted answer does not say again what the client has been given."""

    code = "continuation_diverged"


class Given:
    """What the client was given of one choice."""

    __slots__ = ("calls", "citations", "has_thought", "is_finished", "refusal", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.refusal: list[str] = []
        self.calls: dict[int, tuple[str, str, list[str]]] = {}  # number → id, name, arguments
        self.citations: list[Cited] = []
        self.has_thought = False
        self.is_finished = False

    def note(self, event: Event) -> None:
        """One thing more. Events that say nothing of a choice are passed over."""
        match event:
            case TextDelta():
                self.text.append(event.text)
            case RefusalDelta():
                self.refusal.append(event.text)
            case ToolCallDelta():
                *_, arguments = self.calls.setdefault(event.call, (event.id, event.name, []))
                arguments.append(event.arguments)
            case ReasoningDelta() | ReasoningSealed():
                self.has_thought = True
            case Cited():
                self.citations.append(event)
            case Finished():
                self.is_finished = True
            case _:
                pass

    def said(self, index: int) -> list[Event]:
        """The same as a few events, of choice `index`."""
        events: list[Event] = [ReasoningDelta("", index)] if self.has_thought else []
        events += [TextDelta("".join(self.text), index)] if self.text else []
        events += [RefusalDelta("".join(self.refusal), index)] if self.refusal else []
        for number, (id, name, arguments) in self.calls.items():
            events.append(ToolCallDelta(number, id, name, "".join(arguments), index))
        return events


class Seam:
    """What of a restart is still to be swallowed."""

    def __init__(self, given: Mapping[int, Given]) -> None:
        self._text = {index: "".join(one.text) for index, one in given.items()}
        self._refusal = {index: "".join(one.refusal) for index, one in given.items()}
        self._calls = {
            (index, number): (name, "".join(arguments))
            for index, one in given.items()
            for number, (_, name, arguments) in one.calls.items()
        }
        self._made = set(self._calls)
        self._citations = {index: list(one.citations) for index, one in given.items()}
        self._thoughtful = {index for index, one in given.items() if one.has_thought}
        self._finished = {index for index, one in given.items() if one.is_finished}
        self._untold = set(given) - self._finished  # choices of which the restart has said nothing yet
        self._cut: dict[int, tuple[str, str]] = {}  # of the last text of each choice: what was swallowed, and the rest

    @property
    def is_closed(self) -> bool:
        """Whether everything has been said again, so that there is nothing more to look for."""
        pending = any(self._text.values()) or any(self._refusal.values()) or any(self._citations.values())
        return not (pending or self._calls or self._thoughtful or self._finished or self._untold)

    def feed(self, events: Sequence[Event]) -> list[Event]:
        """What of `events` the client has not been given. Raises `Diverged`."""
        new: list[Event] = []
        for event in events:
            index = getattr(event, "index", None)
            if index in self._finished:
                continue
            self._untold.discard(index)
            match event:
                case TextDelta():
                    rest = self._swallow(self._text, event.index, event.text)
                    self._cut[event.index] = event.text[: len(event.text) - len(rest)], rest
                    if rest:
                        new.append(TextDelta(rest, event.index))
                case RefusalDelta():
                    rest = self._swallow(self._refusal, event.index, event.text)
                    if rest:
                        new.append(RefusalDelta(rest, event.index))
                case ReasoningDelta() | ReasoningSealed():
                    if event.index not in self._thoughtful:
                        new.append(event)
                case ToolCallDelta():
                    new += self._call(event)
                case Cited():
                    new += self._cite(event)
                case LogProbabilities():
                    new += self._probabilities(event)
                case Finished():
                    self._check_all_said(event.index)
                    new.append(event)
                case Ended():
                    if self._untold:
                        raise _diverged()
                    for choice in self._text.keys() - self._finished:
                        self._check_all_said(choice)
                    new.append(event)
                case _:
                    new.append(event)
        return new

    def _swallow(self, expected: dict[int, str], index: int, said: str) -> str:
        """What of `said` goes beyond what is expected."""
        left = expected.get(index, "")
        if left.startswith(said):
            expected[index] = left[len(said) :]
            return ""
        if not said.startswith(left):
            raise _diverged()
        expected[index] = ""
        self._check_none_pending(index)
        self._thoughtful.discard(index)
        return said[len(left) :]

    def _call(self, event: ToolCallDelta) -> list[Event]:
        key = (event.index, event.call)
        if self._text.get(event.index) or self._refusal.get(event.index):
            raise _diverged()  # it makes a call where it had spoken
        if key in self._made and key not in self._calls and not event.arguments:
            return []  # its end, or its name once more
        if key not in self._calls:
            self._check_none_pending(event.index)
            self._thoughtful.discard(event.index)
            return [event]
        name, left = self._calls[key]
        if event.name and event.name != name:
            raise _diverged()
        if left.startswith(event.arguments) and len(event.arguments) < len(left):
            self._calls[key] = (name, left[len(event.arguments) :])
            return []
        if not event.arguments.startswith(left):
            raise _diverged()
        del self._calls[key]
        rest = event.arguments[len(left) :]
        if rest:
            self._check_none_pending(event.index)
        return [ToolCallDelta(event.call, arguments=rest, index=event.index)] if rest else []

    def _check_none_pending(self, index: int) -> None:
        if any(choice == index for choice, _ in self._calls):
            raise _diverged()  # it goes on with something else than the calls that were made

    def _cite(self, event: Cited) -> list[Event]:
        given = self._citations.get(event.index, [])
        if event in given:
            given.remove(event)
            return []
        return [] if self._text.get(event.index) else [event]

    def _probabilities(self, event: LogProbabilities) -> list[Event]:
        """Those of the tokens whose text is new. A token that was cut in two is known already."""
        swallowed, rest = self._cut.get(event.index, ("", ""))
        if not swallowed:
            return [event]
        tokens = list(event.tokens) if rest else []
        length = len(swallowed)
        while tokens and length > 0:
            length -= len(_word(tokens.pop(0)))
        return [LogProbabilities(tokens, event.index)] if tokens else []

    def _check_all_said(self, index: int) -> None:
        calls_left = any(choice == index for choice, _ in self._calls)
        if self._text.get(index) or self._refusal.get(index) or calls_left:
            raise _diverged()  # it ends before the place that the client has come to
        self._thoughtful.discard(index)
        self._citations.pop(index, None)


class Blank:
    """Where an answer is gone on with, by one who was given its beginning without the blank at its end (some take none there): it
    may say that blank again, and the client has it."""

    def __init__(self, blank: str) -> None:
        self._blank = blank

    @property
    def is_closed(self) -> bool:
        """Whether nothing of the blank can come any more."""
        return not self._blank

    def feed(self, events: Sequence[Event]) -> list[Event]:
        """`events` without the blank."""
        new: list[Event] = []
        for event in events:
            if isinstance(event, TextDelta) and self._blank and event.text:
                said, blank = event.text, self._blank
                if blank.startswith(said):
                    self._blank = blank[len(said) :]
                    continue
                self._blank = ""
                if said.startswith(blank):
                    new.append(TextDelta(said[len(blank) :], event.index))
                    continue
            new.append(event)
        return new


def _word(token: Any) -> str:
    word = token.get("token") if isinstance(token, dict) else None
    return word if isinstance(word, str) else ""


def _diverged() -> Diverged:
    return Diverged("The provider's answer broke off, and another one does not say the same.")
