"""One exchange's stream, looked at from both ends: what the provider's decoder says, and what the client is sent.

For `validate_streams`: the first violation is told once, and the stream goes on as if nobody had looked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trio_ai_proxy.chat.grammar import EventGrammar, IllegalSequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.dialects.base import StreamGrammar

Report = Callable[[str, str], None]


class Scrutiny:
    """`report` is called at most once, with the side ("provider" or "client") and a sentence.

    `answer` is the grammar of the client's stream, None where the client gets no stream.
    """

    __slots__ = ("_answer", "_events", "_report")

    def __init__(self, answer: StreamGrammar | None, report: Report) -> None:
        # A [DONE] without a finish_reason is an end: whether it is one for the client is for `answer` to say.
        self._events: EventGrammar | None = EventGrammar(reasons_required=False)
        self._answer = answer
        self._report: Report | None = report

    def observe(self, events: Sequence[Event]) -> None:
        """Look at what the decoder says."""
        grammar = self._events
        if grammar is None:
            return
        try:
            for event in events:
                grammar.feed(event)
        except IllegalSequence as wrong:
            self._tell("provider", wrong)

    def send(self, data: bytes) -> None:
        """Look at a piece of the client's stream."""
        if self._answer is None or not data:
            return
        try:
            self._answer.feed(data)
        except IllegalSequence as wrong:
            self._tell("client", wrong)

    def finish(self, data: bytes) -> None:
        """Look at the last piece, and at the whole."""
        self.send(data)
        if self._answer is None:
            return
        try:
            self._answer.close()
        except IllegalSequence as wrong:
            self._tell("client", wrong)

    def _tell(self, side: str, wrong: IllegalSequence) -> None:
        # Once is enough: after one violation, others follow from it.
        self._events = self._answer = None
        report, self._report = self._report, None
        if report is not None:
            report(side, str(wrong))
