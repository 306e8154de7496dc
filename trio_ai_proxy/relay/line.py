"""The line in which an answer waits for its verdicts: who is behind whom, and what may leave.

Pure. Everything of one choice leaves in the order in which it came; choices do not wait for one another. What is of no
choice (usage, the end) leaves when nothing is left before it.

A window is open until it is full or its part makes a pause: until another part of its choice speaks, or the choice is
finished. Calls of tools told side by side have windows side by side.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Failed,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from trio_ai_proxy.guards.base import Block, Replace, Window
from trio_ai_proxy.relay.windows import Cutter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.guards.base import Judge, Part, Verdict

Delta = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta


class Ticket:
    """One window in the line.

    window   what the judge is shown, once it is closed
    """

    __slots__ = ("call", "choice", "content", "context", "part", "text", "verdict", "window")

    window: Window

    def __init__(self, choice: _Choice, part: Part, call: int, context: str) -> None:
        self.choice = choice
        self.part = part
        self.call = call
        self.context = context
        self.content: list[str | Event] = []  # its text, and what was said beside it
        self.text: list[str] = []
        self.verdict: Verdict | None = None

    def close(self, *, is_last: bool) -> None:
        """Nothing more comes into it."""
        new = "".join(self.text)
        self.text = [new]
        self.window = Window(self.part, self.choice.index, self.call, new, self.context, is_last)

    def released(self) -> list[Event]:
        """What leaves in its place, with neighbouring deltas joined."""
        if isinstance(self.verdict, Replace):
            text = self.verdict.text
            beside = [event for event in self.content if not isinstance(event, str)]
            return [*([self._delta(text)] if text else []), *self.choice.without_places(beside)]
        events: list[Event] = []
        run: list[str] = []
        for one in self.content:
            if isinstance(one, str):
                run.append(one)
                continue
            if run:
                events.append(self._delta("".join(run)))
                run = []
            events += self.choice.without_places([one])
        return [*events, self._delta("".join(run))] if run else events

    def _delta(self, text: str) -> Event:
        index = self.choice.index
        match self.part:
            case "text":
                return TextDelta(text, index)
            case "reasoning":
                return ReasoningDelta(text, index)
            case "refusal":
                return RefusalDelta(text, index)
            case "arguments":
                return ToolCallDelta(self.call, arguments=text, index=index)


class _Choice:
    """One choice of the answer: its line, and the windows of it that are open."""

    __slots__ = ("cutters", "index", "is_replaced", "is_thought_replaced", "line", "open", "tails")

    def __init__(self, index: int) -> None:
        self.index = index
        self.line: deque[Ticket | Event] = deque()
        self.open: dict[tuple[Part, int], Ticket] = {}
        self.cutters: dict[tuple[Part, int], Cutter] = {}
        self.tails: dict[tuple[Part, int], str] = {}  # the end of what each part has said in windows that are closed
        self.is_replaced = False
        self.is_thought_replaced = False

    def without_places(self, events: Sequence[Event]) -> list[Event]:
        """What may be said beside text that is no longer the provider's: no probabilities of it, no proof of it, and of a
        source not where in it it was used."""
        if not self.is_replaced and not self.is_thought_replaced:
            return list(events)
        kept: list[Event] = []
        for event in events:
            match event:
                case LogProbabilities() if self.is_replaced:
                    continue
                case Cited() if self.is_replaced:
                    kept.append(msgspec.structs.replace(event, start=0, end=0))
                case ReasoningSealed() if self.is_thought_replaced and not event.redacted:
                    self.is_thought_replaced = False  # the next block of thinking is another one
                case _:
                    kept.append(event)
        return kept


class Line:
    """One answer on its way past one judge.

    held     characters that have been taken and not given on, in windows and behind them
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._holds = judge.mode == "hold"
        self._choices: dict[int, _Choice] = {}
        self._rest: list[Event] = []  # of no choice
        self._ready: list[Event] = []
        self._undecided = 0
        self._is_broken = False
        self.held = 0

    @property
    def is_empty(self) -> bool:
        """Nothing is held, or ready to leave."""
        return not self._ready and not self._rest and not any(choice.line for choice in self._choices.values())

    @property
    def has_ready(self) -> bool:
        """Something may leave now."""
        return bool(self._ready)

    @property
    def is_waiting(self) -> bool:
        """Something that could leave waits for a verdict."""
        if not self._undecided:
            return False
        return self._holds or bool(self._rest) or any(_has_end(choice) for choice in self._choices.values())

    def feed(self, events: Sequence[Event]) -> list[Ticket]:
        """Put `events` in line. Gives the windows that are now to be judged."""
        if self._is_broken:
            return []
        closed: list[Ticket] = []
        for event in events:
            match event:
                case TextDelta():
                    self._speak(event, "text", 0, event.text, closed)
                case ReasoningDelta():
                    self._speak(event, "reasoning", 0, event.text, closed)
                case RefusalDelta():
                    self._speak(event, "refusal", 0, event.text, closed)
                case ToolCallDelta():
                    self._call(event, closed)
                case LogProbabilities() | Cited() | ReasoningSealed():
                    choice = self._choice(event.index)
                    if isinstance(event, ReasoningSealed):
                        self._close("reasoning", choice, closed)
                    self._beside(choice, event)
                case Finished():
                    choice = self._choice(event.index)
                    self._close(None, choice, closed)
                    choice.line.append(event)
                case _:
                    self._append_of_none(event)
        self._advance()
        return closed

    def close(self) -> list[Ticket]:
        """The answer is over: the windows that are still open are to be judged."""
        closed: list[Ticket] = []
        for choice in self._choices.values():
            self._close(None, choice, closed)
        return closed

    def decide(self, ticket: Ticket, verdict: Verdict) -> None:
        """Take a verdict. `Block` ends the answer: what has not been let pass by now never is."""
        if self._is_broken:
            return
        self._undecided -= 1
        if isinstance(verdict, Block):
            self._is_broken = True
            self._choices.clear()
            self._rest.clear()
            self._undecided = 0
            if not self._holds:
                self._ready.clear()  # nobody has judged it
            self.held = sum(map(_length, self._ready))
            return
        ticket.verdict = verdict
        self._advance()

    def take(self) -> list[Event]:
        """What may leave now. It is no longer held."""
        events, self._ready = self._ready, []
        self.held -= sum(map(_length, events))
        return events

    # -- into the line --------------------------------------------------------------------------------------------------

    def _choice(self, index: int) -> _Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(index)
        return choice

    def _call(self, event: ToolCallDelta, closed: list[Ticket]) -> None:
        if not event.arguments or (self._holds and (event.id or event.name or event.signature)):
            choice = self._choice(event.index)
            self._close_others("arguments", choice, closed)
            self._append(choice, msgspec.structs.replace(event, arguments=""))
            if not event.arguments:
                return
            event = ToolCallDelta(event.call, arguments=event.arguments, index=event.index)
        self._speak(event, "arguments", event.call, event.arguments, closed)

    def _speak(self, event: Delta, part: Part, call: int, text: str, closed: list[Ticket]) -> None:
        choice = self._choice(event.index)
        if not text:
            self._beside(choice, event)
            return
        self._close_others(part, choice, closed)
        if part not in self._judge.parts:
            self._append(choice, event)
            return
        if not self._holds:
            self._append(choice, event)
        key = part, call
        cutter = choice.cutters.get(key)
        if cutter is None:
            cutter = choice.cutters[key] = Cutter(self._judge.window, by_sentence=self._judge.by_sentence)
        *full, rest = cutter.feed(text)
        for piece in full:
            self._add(choice, key, piece)
            self._finish(choice, key, closed, is_last=False)
        if rest:
            self._add(choice, key, rest)

    def _add(self, choice: _Choice, key: tuple[Part, int], piece: str) -> None:
        ticket = choice.open.get(key)
        if ticket is None:
            ticket = choice.open[key] = Ticket(choice, *key, choice.tails.get(key, ""))
            choice.line.append(ticket)
        ticket.text.append(piece)
        if self._holds and piece:
            ticket.content.append(piece)
        self.held += len(piece)

    def _finish(self, choice: _Choice, key: tuple[Part, int], closed: list[Ticket], *, is_last: bool) -> None:
        ticket = choice.open.pop(key)
        ticket.close(is_last=is_last)
        overlap = self._judge.overlap
        choice.tails[key] = (ticket.context + ticket.text[0])[-overlap:] if overlap else ""
        self._undecided += 1
        closed.append(ticket)

    def _close_others(self, part: Part, choice: _Choice, closed: list[Ticket]) -> None:
        for other in [key for key in choice.open if key[0] != part]:
            choice.cutters[other].close()
            self._finish(choice, other, closed, is_last=False)

    def _close(self, part: Part | None, choice: _Choice, closed: list[Ticket]) -> None:
        """Close the windows of `part`, which makes a pause; of all parts where it is None, which are then over."""
        for key in [key for key in choice.open if part is None or key[0] == part]:
            choice.cutters[key].close()
            self._finish(choice, key, closed, is_last=part is None)

    def _beside(self, choice: _Choice, event: Event) -> None:
        """What belongs to the text before it, and is replaced with it."""
        if self._holds and choice.open:
            [*_, ticket] = choice.open.values()
            ticket.content.append(event)
        else:
            self._append(choice, event)

    def _append(self, choice: _Choice, event: Event) -> None:
        (choice.line if self._holds else self._ready).append(event)
        self.held += _length(event)

    def _append_of_none(self, event: Event) -> None:
        if isinstance(event, Ended | Failed) or self._holds:
            is_behind = any(choice.line for choice in self._choices.values())
        else:
            is_behind = any(_has_end(choice) for choice in self._choices.values())
        (self._rest if self._rest or is_behind else self._ready).append(event)

    # -- out of it ------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Move to the exit what nothing is in the way of."""
        for choice in self._choices.values():
            line = choice.line
            while line:
                first = line[0]
                if not isinstance(first, Ticket):
                    line.popleft()
                    self._ready += choice.without_places([first])
                    continue
                if first.verdict is None:
                    break
                line.popleft()
                self._release(choice, first)
        if self._rest and not any(choice.line for choice in self._choices.values()):
            self._ready += self._rest
            self._rest.clear()

    def _release(self, choice: _Choice, ticket: Ticket) -> None:
        self.held -= len(ticket.text[0])
        if not self._holds:
            return
        if isinstance(ticket.verdict, Replace):
            if ticket.part == "reasoning":
                choice.is_thought_replaced = True
            elif ticket.part != "arguments":
                choice.is_replaced = True
        events = ticket.released()
        self._ready += events
        self.held += sum(map(_length, events))


def _has_end(choice: _Choice) -> bool:
    """Whether its `Finished` is in line."""
    return any(not isinstance(one, Ticket) for one in choice.line)


def _length(event: Event) -> int:
    """The characters that an event holds."""
    match event:
        case TextDelta() | ReasoningDelta() | RefusalDelta():
            return len(event.text)
        case ToolCallDelta():
            return len(event.arguments)
        case _:
            return 0
