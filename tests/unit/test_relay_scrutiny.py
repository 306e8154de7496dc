"""Who looks at a stream tells of the first thing that is wrong with it, once, and changes nothing."""

from __future__ import annotations

from trio_ai_proxy.chat.events import Ended, Finished, Started, TextDelta
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.relay.scrutiny import Scrutiny

BEGUN = Started("i", "m", 1)
CHAT = DIALECTS["llm/v1/chat"]


def looking(*, streams: bool = True) -> tuple[Scrutiny, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    grammar = CHAT.grammar(include_usage=False, own=True) if streams else None
    return Scrutiny(grammar, lambda side, what: told.append((side, what))), told


def test_a_sound_stream_is_nothing_to_tell_of() -> None:
    scrutiny, told = looking()
    events = [BEGUN, TextDelta("a"), Finished("stop"), Ended()]
    scrutiny.observe(events)
    scrutiny.send(b"")
    scrutiny.send(CHAT.encoder(BEGUN).feed(events))
    scrutiny.finish(CHAT.terminal)
    assert told == []


def test_the_first_thing_that_is_wrong_is_told_once() -> None:
    scrutiny, told = looking()
    scrutiny.observe([BEGUN, TextDelta("")])
    scrutiny.observe([BEGUN])
    scrutiny.send(b"data: {\n\n")
    scrutiny.finish(b"")
    assert told == [("provider", "choice 0: an empty TextDelta")]


def test_what_the_client_is_sent_is_told_of_too() -> None:
    scrutiny, told = looking()
    scrutiny.send(b"data: {\n\n")
    scrutiny.observe([TextDelta("a")])
    assert told == [("client", "a frame that is not JSON")]


def test_an_end_that_is_none_is_told_of() -> None:
    scrutiny, told = looking()
    scrutiny.finish(b"")
    scrutiny.finish(b"")
    assert told == [("client", "the stream stops without [DONE] or an error")]


def test_where_there_is_no_stream_the_provider_alone_is_looked_at() -> None:
    scrutiny, told = looking(streams=False)
    scrutiny.send(b"anything")
    scrutiny.finish(b"")
    scrutiny.observe([TextDelta("a")])
    assert told == [("provider", "TextDelta before Started")]
