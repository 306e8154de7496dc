"""One stream of one client across several attempts: what it has been given, and how the next attempt is joined on.

Pure. Only what has gone out is noted, when it has gone out: an attempt that was beaten, or stopped before its piece could be
handed over, leaves no trace here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.chat.events import (
    Cited,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from trio_ai_proxy.relay.seam import Blank, Given, Seam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.chat.events import Event, Started

_OF_A_CHOICE = (
    TextDelta, RefusalDelta, ReasoningDelta, ReasoningSealed, ToolCallDelta, Cited, LogProbabilities, Finished,
)  # fmt: skip


class Thread:
    """What one client is given, whoever answers.

    started  the head of the stream, complete, by which all of it is known to the client; None before there is one
    """

    def __init__(self) -> None:
        self.started: Started | None = None
        self._given: dict[int, Given] = {}

    @property
    def text(self) -> str | None:
        """The text that was given, if that is all: one choice, and no call of a tool. None otherwise."""
        if set(self._given) != {0}:
            return None
        given = self._given[0]
        return None if given.calls or given.refusal or given.is_finished else "".join(given.text)

    def note(self, events: Sequence[Event]) -> None:
        """The client has been given these."""
        for event in events:
            if type(event) is TextDelta:
                given = self._given.get(event.index)
                if given is not None:
                    given.text.append(event.text)
                    continue
            if isinstance(event, _OF_A_CHOICE):
                self._given.setdefault(event.index, Given()).note(event)

    def said(self) -> list[Event]:
        """What was given, in a few events: for an encoder that goes on where another one stopped."""
        return [event for index, given in sorted(self._given.items()) for event in given.said(index)]

    def is_finished(self, choices: int) -> bool:
        """Whether each of so many choices was given to its end: then nothing of the answer is lacking."""
        return len(self._given) >= choices and all(given.is_finished for given in self._given.values())

    def restart(self) -> Seam:
        """For an attempt that begins the answer again."""
        return Seam(self._given)

    def go_on(self) -> Blank:
        """For an attempt that was given the text so far, without the blank at its end, and goes on from it."""
        text = self.text or ""
        return Blank(text[len(text.rstrip()) :])
