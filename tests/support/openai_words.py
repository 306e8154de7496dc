"""What OpenAI's wire can say of an answer, and how a client of it is sent one: for tests that read back what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from support.decoding import run_stages

from trio_ai_proxy.chat.events import Cited, Ended, Event, Finished, RefusalDelta, Started, TextDelta, UsageReported
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.openai_stream import OpenAIDecoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ai_proxy.chat.request import Operation
    from trio_ai_proxy.dialects.base import Dialect


def on_the_wire(event: Event) -> Event:
    """`event`, as far as OpenAI's chat can say it: of a page no quote and no id in the request, of a document no place where its
    use begins."""
    if isinstance(event, Cited):
        return (
            msgspec.structs.replace(event, source="", quote="")
            if event.url
            else msgspec.structs.replace(event, start=0)
        )
    return event


def as_text(event: Event) -> Event | None:
    """`event`, as far as OpenAI's completions can say it: text, a refusal as text, and how it ended."""
    if isinstance(event, RefusalDelta):
        return TextDelta(event.text, event.index)
    return event if isinstance(event, Started | TextDelta | Finished | UsageReported | Ended) else None


def usage_last(events: list[Event]) -> list[Event]:
    """The latest usage is written at the end."""
    reports = [event for event in events if isinstance(event, UsageReported)]
    rest = [event for event in events if not isinstance(event, UsageReported | Ended)]
    return [*rest, *reports[-1:], Ended()]


def read_back(operation: Operation, pieces: Iterable[bytes]) -> list[Event]:
    """What a whole stream means to our own reader."""
    events, raised = run_stages(SSEFramer(), OpenAIDecoder(operation, str), pieces, reasons_required=False)
    assert raised is None
    return events


def obey(dialect: Dialect, pieces: Iterable[bytes]) -> None:
    """The pieces are one whole stream as a client of `dialect` must get it. Raises `IllegalSequence` if not."""
    grammar = dialect.grammar(include_usage=True, own=True)
    for piece in pieces:
        if piece:
            grammar.feed(piece)
    grammar.close()
