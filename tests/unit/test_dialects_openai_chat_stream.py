"""The chunks that a client of OpenAI's chat is sent, byte for byte; that they mean what was said is for the properties."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.decoding import fold

from trio_ai_proxy.chat.events import (
    Cited,
    Embedded,
    Ended,
    Event,
    Failed,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.dialects.table import DIALECTS
from trio_ai_proxy.errors import UpstreamError

CHAT, TEXT = DIALECTS["llm/v1/chat"], DIALECTS["llm/v1/completions"]
BEGUN = Started("i", 'm"\u2028', 5)


def choices(*events: Event, dialect: Any = CHAT, started: Started = BEGUN) -> list[Any]:
    out = dialect.encoder(started).feed(events)
    frames = [json.loads(part.removeprefix(b"data: ")) for part in out.split(b"\n\n")[:-1]]
    return [choice for frame in frames for choice in frame["choices"]]


def deltas(*events: Event) -> list[Any]:
    return [choice["delta"] for choice in choices(*events)][1:]


def test_a_chunk_is_in_openais_order_and_holds_nothing_else() -> None:
    encoder = CHAT.encoder(Started("i", "m", 5, "f"))
    encoder.feed([TextDelta("a")])
    assert encoder.feed([TextDelta('"\n€')]) == (
        b'data: {"id":"i","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"f","choices":'
        b'[{"index":0,"delta":{"content":"\\"\\n\xe2\x82\xac"},"logprobs":null,"finish_reason":null}]}\n\n'
    )


def test_a_choice_opens_with_its_role_when_it_has_something_to_say() -> None:
    encoder = CHAT.encoder(BEGUN)
    assert encoder.feed([BEGUN, UsageReported(TokenUsage()), Ended(), Failed(UpstreamError("m"))]) == b""
    assert [choice["delta"] for choice in choices(TextDelta("a"), TextDelta("b"))] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
    ]
    both = choices(TextDelta("a", 1), TextDelta("b", 0))
    assert [(choice["index"], "role" in choice["delta"]) for choice in both] == [
        (1, True),
        (1, False),
        (0, True),
        (0, False),
    ]


@pytest.mark.parametrize(
    ("event", "delta"),
    [
        (ReasoningDelta("a"), {"reasoning_content": "a"}),
        (RefusalDelta("a"), {"refusal": "a"}),
        (ReasoningSealed("s"), {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]}),
        (ReasoningSealed(redacted="r"), {"thinking_blocks": [{"type": "redacted_thinking", "data": "r"}]}),
        (
            Cited("u", "t", start=1, end=2),
            {
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {"start_index": 1, "end_index": 2, "url": "u", "title": "t"},
                    }
                ]
            },
        ),
        (
            Cited("", "t", "s", "q", end=2),
            {
                "annotations": [
                    {
                        "type": "file_citation",
                        "file_citation": {"file_id": "s", "filename": "t", "index": 2, "quote": "q"},
                    }
                ]
            },
        ),
        (Finished("stop"), {}),
    ],
)
def test_delta(event: Event, delta: Any) -> None:
    assert deltas(event) == [delta]


def test_a_sealed_thought_is_whole_although_its_text_was_told() -> None:
    said = choices(
        ReasoningDelta("I "),
        ReasoningDelta("think", 1),
        ReasoningSealed(redacted="r"),
        ReasoningDelta("am"),
        ReasoningSealed("s"),
        ReasoningSealed("t", index=1),
        ReasoningDelta("So"),
        ReasoningSealed("u"),
        ReasoningSealed("v"),
    )
    found = [(choice["index"], *choice["delta"].get("thinking_blocks", ())) for choice in said]
    assert [blocks for blocks in found if len(blocks) > 1] == [
        (0, {"type": "redacted_thinking", "data": "r"}),
        (0, {"type": "thinking", "thinking": "I am", "signature": "s"}),
        (1, {"type": "thinking", "thinking": "think", "signature": "t"}),
        (0, {"type": "thinking", "thinking": "So", "signature": "u"}),
        (0, {"type": "thinking", "thinking": "", "signature": "v"}),
    ]


def test_a_call_begins_with_all_that_is_known_of_it() -> None:
    signed = {"extra_content": {"google": {"thought_signature": "s"}}}
    assert deltas(
        ToolCallDelta(0, "c", "f"),
        ToolCallDelta(0, "c", "f", "{}"),
        ToolCallDelta(1, "d", "g", "{}", signature="s"),
    ) == [
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "d", "type": "function", "function": {"name": "g", "arguments": "{}"}, **signed}
            ]
        },
    ]


def test_a_call_without_an_id_is_openais_older_form() -> None:
    assert deltas(ToolCallDelta(0, "", "f"), ToolCallDelta(0, arguments="{}")) == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
    ]


OLDER = ChatRequest("chat", "m", stream=True, include_usage=False, fields={"functions": [{"name": "f"}]})


def test_a_client_that_knows_the_older_form_alone_is_told_of_the_first_call_in_it() -> None:
    events = [
        ToolCallDelta(0, "c", "f"), ToolCallDelta(0, arguments="{}"), ToolCallDelta(1, "d", "g", "{}"), Finished("tool_calls")
    ]  # fmt: skip
    out = CHAT.encoder(BEGUN, OLDER).feed(events)
    frames = [json.loads(part.removeprefix(b"data: "))["choices"][0] for part in out.split(b"\n\n")[:-1]]
    assert [frame["delta"] for frame in frames] == [
        {"role": "assistant", "content": ""},
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
        {},
    ]
    assert frames[-1]["finish_reason"] == "function_call"
    [choice] = json.loads(CHAT.encode_answer(fold([BEGUN, *events]), OLDER))["choices"]
    assert choice["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    assert choice["finish_reason"] == "function_call"


def test_probabilities_stand_beside_an_empty_delta() -> None:
    _, said = choices(LogProbabilities([{"token": "a"}]))
    assert (said["delta"], said["logprobs"]) == ({}, {"content": [{"token": "a"}], "refusal": None})


def test_the_reason_is_the_last_word_of_a_choice() -> None:
    assert [choice["finish_reason"] for choice in choices(TextDelta("a"), Finished('st"op'))] == [None, None, 'st"op']


def test_vectors_are_never_streamed() -> None:
    assert CHAT.encoder(BEGUN).feed([Embedded([1.0])]) == b""


def test_a_completion_has_text_and_a_reason_and_nothing_else() -> None:
    said = choices(
        TextDelta("a"),
        RefusalDelta("b"),
        ReasoningDelta("c"),
        ToolCallDelta(0, "c", "f"),
        Finished("length", 1),
        dialect=TEXT,
    )
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in said] == [
        (0, "a", None),
        (0, "b", None),
        (1, "", "length"),
    ]
