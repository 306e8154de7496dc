"""A provider's bytes through its own framer and decoder, every event checked against the grammar of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ai_proxy.chat.fold import Answer, Fold
from trio_ai_proxy.chat.grammar import EventGrammar
from trio_ai_proxy.errors import UpstreamError
from trio_ai_proxy.providers.base import EVENT_STREAM

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ai_proxy.chat.events import Event
    from trio_ai_proxy.chat.request import ChatRequest
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage
    from trio_ai_proxy.providers.base import Provider


def decode_all(
    provider: Provider,
    request: ChatRequest,
    data: bytes | Iterable[bytes],
    media_type: str = EVENT_STREAM,
    *,
    reasons_required: bool = True,
) -> tuple[list[Event], str | None]:
    """The events of one streamed answer, given whole or in pieces, and the name of the error at which it ended, or None.

    Raises `IllegalSequence` where the events cannot be the story of one answer.
    """
    pieces = [data] if isinstance(data, bytes) else data
    stages = provider.framer(media_type), provider.decoder(request)
    return run_stages(*stages, pieces, reasons_required=reasons_required)


def run_stages(
    framer: Framer, decoder: Stage[Frame, Event], pieces: Iterable[bytes], *, reasons_required: bool = True
) -> tuple[list[Event], str | None]:
    """The same of a framer and a decoder."""
    grammar = EventGrammar(reasons_required=reasons_required)
    events: list[Event] = []

    def take(found: list[Event]) -> None:
        for event in found:
            grammar.feed(event)
            events.append(event)

    try:
        for piece in pieces:
            for frame in framer.feed(piece):
                take(decoder.feed(frame))
        for frame in framer.close():
            take(decoder.feed(frame))
        take(decoder.close())
    except UpstreamError as error:
        return events, type(error).__name__
    grammar.close()
    return events, None


def read_whole(provider: Provider, request: ChatRequest, body: bytes, *, reasons_required: bool = True) -> list[Event]:
    """The events of one whole answer, checked in the same way."""
    return checked(provider.read_answer(request, body), reasons_required=reasons_required)


def checked(events: list[Event], *, reasons_required: bool = True) -> list[Event]:
    """`events`, which are the whole story of one answer."""
    grammar = EventGrammar(reasons_required=reasons_required)
    for event in events:
        grammar.feed(event)
    grammar.close()
    return events


def fold(events: Iterable[Event]) -> Answer:
    """The answer that events tell."""
    gathered = Fold()
    for event in events:
        gathered.add(event)
    return gathered.answer()
