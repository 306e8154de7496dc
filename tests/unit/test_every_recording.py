"""Every recorded answer of every provider: its events are the story of one answer, and a client of OpenAI's wire is told that
story and no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.accounts import WIRES, account, media_type_of
from support.decoding import decode_all, fold
from support.openai_words import as_text, obey, on_the_wire, read_back, usage_last
from support.recordings import comparable, recordings

from trio_ai_proxy.chat.events import Ended, Event, Failed, Finished, Started, UsageReported
from trio_ai_proxy.chat.grammar import IllegalSequence
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.relay.translation import Names, Translation

if TYPE_CHECKING:
    from support.recordings import Recording

FIELDS = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
NAMES = Names(id="made-up", model=None, asked="asked", created=17)

EVERY = pytest.mark.parametrize(
    ("wire", "recording"),
    [pytest.param(wire, one, id=f"{wire}-{one.name}") for wire in WIRES for one in recordings(wire)],
)


def asked(recording: Recording) -> ChatRequest:
    return ChatRequest(recording.operation, "asked", stream=True, include_usage=True, fields=FIELDS)


@EVERY
def test_events_are_the_story_of_one_answer(wire: str, recording: Recording) -> None:
    provider = account(wire)
    events, raised = decode_all(
        provider,
        asked(recording),
        recording.response,
        media_type_of(provider, recording.response),
        reasons_required=False,
    )
    assert (comparable(events), raised) == (recording.events, recording.raises)


@EVERY
def test_client_is_told_that_story(wire: str, recording: Recording) -> None:
    provider, request = account(wire), asked(recording)
    dialect = DIALECTS["llm/v1/chat" if recording.operation == "chat" else "llm/v1/completions"]
    framer = provider.framer(media_type_of(provider, recording.response))
    path = Translation(framer, provider.decoder(request), dialect, NAMES)
    batches = [path.feed(recording.response[at : at + 50]) for at in range(0, len(recording.response), 50)]
    batches.append(path.close())
    events: list[Event] = [event for batch in batches for event in batch.events]
    pieces = [batch.out for batch in batches]
    error = next((batch.error for batch in batches if batch.error is not None), None)
    ended = any(batch.ended for batch in batches)
    assert ended != (error is not None)
    if error is not None:
        assert isinstance(events[-1], Failed)
        obey(dialect, [*pieces, dialect.encode_stream_error(error)])
        return
    assert isinstance(events[-1], Ended)
    started = next(event for event in events if isinstance(event, Started))
    assert started == NAMES.complete(started), "nothing is missing in the head"
    reports = [event.usage for event in events if isinstance(event, UsageReported)]
    if reports:
        pieces.append(dialect.encode_usage(started, reports[-1]))
    pieces.append(dialect.terminal)
    if any(isinstance(event, Finished) for event in events) or len(events) == len([*reports, started, Ended()]):
        obey(dialect, pieces)
    else:  # the provider did not say why it ended, and nobody makes a reason up
        with pytest.raises(IllegalSequence, match="no finish_reason"):
            obey(dialect, pieces)
    told = read_back(recording.operation, pieces)
    if recording.operation == "chat":
        meant = [on_the_wire(event) for event in events]
        whole = provider_words(dialect.encode_answer(fold(events), request), recording)
        assert fold(whole) == fold(meant)
    else:
        meant = [said for event in events if (said := as_text(event)) is not None]
    if any(not isinstance(event, Started | UsageReported | Ended) for event in meant):
        assert told == usage_last(meant)


def provider_words(body: bytes, recording: Recording) -> list[Event]:
    return account("openai").read_answer(asked(recording), body)
