"""What the gateway writes for an OpenAI client means, to our own reader of OpenAI's wire, what it was written from.

What the wire cannot say is listed in `support.openai_words`, and nothing else is lost.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoding import checked, fold
from support.event_strategies import answers, vectors
from support.openai_words import as_text, obey, on_the_wire, read_back, usage_last

from trio_ai_proxy.chat.events import (
    Cited,
    Embedded,
    Event,
    Finished,
    LogProbabilities,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.providers.openai_stream import read_answer

CHAT, TEXT, EMBEDDINGS = (DIALECTS[f"llm/v1/{name}"] for name in ("chat", "completions", "embeddings"))


def asked(operation: Operation, **fields: object) -> ChatRequest:
    return ChatRequest(operation, "m", stream=True, include_usage=True, fields=fields)


def written(dialect, events: list[Event], batches: list[int]) -> list[bytes]:
    """The pieces that a client is sent."""
    started = events[0]
    encoder = dialect.encoder(started)
    pieces, at = [], 0
    for size in [*batches, len(events)]:
        pieces.append(encoder.feed(events[at : at + size]))
        at += size
    reports = [event.usage for event in events if isinstance(event, UsageReported)]
    if reports:
        pieces.append(dialect.encode_usage(started, reports[-1]))
    return [*pieces, dialect.terminal]


BATCHES = st.lists(st.integers(0, 5), max_size=20)


@given(answers(), BATCHES)
def test_stream_of_chat_is_read_as_it_was_meant(events: list[Event], batches: list[int]) -> None:
    checked(events)
    pieces = written(CHAT, events, batches)
    obey(CHAT, pieces)
    assert read_back("chat", pieces) == usage_last([on_the_wire(event) for event in events])


@given(answers(tools=False), BATCHES)
def test_stream_of_completions_is_read_as_it_was_meant(events: list[Event], batches: list[int]) -> None:
    pieces = written(TEXT, events, batches)
    obey(TEXT, pieces)
    expected = usage_last([said for event in events if (said := as_text(event)) is not None])
    assert read_back("completions", pieces) == expected


@given(answers())
def test_whole_answer_of_chat_is_read_as_it_was_meant(events: list[Event]) -> None:
    """… and a stream folds to the same message as the whole answer."""
    meant = fold(map(on_the_wire, events))
    body = CHAT.encode_answer(fold(events), asked("chat"))
    assert fold(checked(read_answer("chat", body, str))) == meant
    assert fold(read_back("chat", written(CHAT, events, []))) == meant


@given(answers(tools=False))
def test_whole_answer_of_completions_is_read_as_it_was_meant(events: list[Event]) -> None:
    whole = fold(events)
    got = fold(read_answer("completions", TEXT.encode_answer(whole, asked("completions")), str))
    assert [(choice.text, choice.finish_reason) for choice in got.choices] == [
        (choice.text + choice.refusal, choice.finish_reason) for choice in whole.choices
    ]
    assert replace(got, choices=[]) == replace(whole, choices=[])


@given(vectors(), st.sampled_from(["float", "base64", None]))
def test_embeddings_are_read_as_they_were_meant(events: list[Event], form: str | None) -> None:
    """… but for an id, a time and a fingerprint, which OpenAI's embeddings have not."""
    whole = fold(checked(events))
    body = EMBEDDINGS.encode_answer(whole, asked("embeddings", encoding_format=form))
    got = fold(checked(read_answer("embeddings", body, str)))
    assert all(isinstance(vector, str) == (form == "base64") for vector in got.embeddings)
    again = fold(read_answer("embeddings", EMBEDDINGS.encode_answer(got, asked("embeddings")), str))
    assert again == replace(whole, id="", created=0, system_fingerprint=None)


HALVES = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(["\ud83d", "a\ude00b", "\ud83d\ude00"])


@settings(max_examples=50)
@given(HALVES)
def test_half_a_character_never_breaks_an_answer(text: str) -> None:
    """Whatever a decoder lets through: it becomes U+FFFD."""
    events: list[Event] = [
        Started("i", text, 1, text),
        TextDelta(text),
        ToolCallDelta(0, text, text, text),
        Cited(text, text),
        LogProbabilities([{"token": text}]),
        Embedded([1.0]),
        Finished(text),
    ]
    for dialect in (CHAT, TEXT):
        whole = b"".join(written(dialect, events, []))
        assert whole.decode("utf-8").endswith("data: [DONE]\n\n")
        msgspec.json.decode(dialect.encode_answer(fold(events), asked("chat")))
    msgspec.json.decode(EMBEDDINGS.encode_answer(fold(events), asked("embeddings")))
