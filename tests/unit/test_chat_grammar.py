"""What can be the story of one answer, and what cannot."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.decoding import checked
from support.event_strategies import answers, vectors

from trio_ai_proxy.chat.events import (
    Cited,
    Embedded,
    Ended,
    Event,
    Failed,
    Finished,
    LogProbabilities,
    Moderated,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.grammar import EventGrammar, IllegalSequence
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamError

BEGUN = Started("i", "m")
TEXT, STOP, END = TextDelta("a"), Finished("stop"), Ended()
FAILED = Failed(UpstreamError("m"))
CALL = ToolCallDelta(0, "c", "f", "{}")
USAGE = UsageReported(TokenUsage(1, 1, 2))


@given(answers() | vectors())
def test_every_answer_is_legal(events: list[Event]) -> None:
    assert checked(events) == events


@given(answers(), st.data())
def test_an_answer_that_breaks_off_is_legal_as_far_as_it_goes_and_not_as_a_whole(events, data) -> None:
    grammar = EventGrammar()
    for event in events[: data.draw(st.integers(0, len(events) - 1))]:
        grammar.feed(event)
    with pytest.raises(IllegalSequence, match="stops without"):
        grammar.close()


@pytest.mark.parametrize(
    "events",
    [
        [FAILED],
        [END],
        [BEGUN, END],
        [BEGUN, FAILED],
        [BEGUN, TEXT, FAILED],
        [BEGUN, STOP, END],
        [BEGUN, USAGE, TEXT, USAGE, STOP, USAGE, END],
        [BEGUN, ReasoningDelta("a"), ReasoningSealed("s"), ReasoningSealed(redacted="r"), TEXT, STOP, END],
        [BEGUN, RefusalDelta("a"), STOP, END],
        [BEGUN, TEXT, Cited("u", end=1), LogProbabilities([{"token": "a"}]), STOP, END],
        [BEGUN, CALL, Finished("tool_calls"), END],
        [BEGUN, CALL, ToolCallDelta(0, "c", "f", " "), Finished("stop"), END],
        [BEGUN, CALL, ToolCallDelta(0, signature="s"), Finished("stop"), END],
        [BEGUN, ToolCallDelta(0, "", "f", "{}"), Finished("function_call"), END],
        [BEGUN, ToolCallDelta(0, "c", "f", '{"half'), Finished("length"), END],
        [BEGUN, TextDelta("a", 1), TextDelta("b", 0), Finished("stop", 1), Finished("stop", 0), END],
        [BEGUN, Embedded("AACAPw=="), Embedded([1.0], 1), USAGE, END],
        [BEGUN, Moderated({"flagged": True}), Moderated({"flagged": False}, 1), END],
    ],
)
def test_legal(events: list[Event]) -> None:
    checked(events)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([TEXT], "TextDelta before Started"),
        ([USAGE], "UsageReported before Started"),
        ([BEGUN, BEGUN], "second time"),
        ([BEGUN, END, END], "Ended after Ended"),
        ([BEGUN, FAILED, TEXT], "TextDelta after Failed"),
        ([BEGUN, END, USAGE], "UsageReported after Ended"),
        ([BEGUN, TEXT, STOP, TEXT], "choice 0: TextDelta after Finished"),
        ([BEGUN, STOP, STOP], "choice 0: Finished after Finished"),
        ([BEGUN, TEXT, END], "choice 0 has no Finished"),
        ([BEGUN, TextDelta("")], "an empty TextDelta"),
        ([BEGUN, ReasoningDelta("")], "an empty ReasoningDelta"),
        ([BEGUN, RefusalDelta("")], "an empty RefusalDelta"),
        ([BEGUN, ReasoningSealed()], "one of signature and redacted"),
        ([BEGUN, ReasoningSealed("s", "r")], "one of signature and redacted"),
        ([BEGUN, TextDelta("a", -1)], "of choice -1"),
        ([BEGUN, Finished("")], "without a reason"),
        ([BEGUN, Finished("error")], "with an error"),
        ([BEGUN, ToolCallDelta(1, "c", "f")], "call 1 where 0 is next"),
        ([BEGUN, CALL, ToolCallDelta(-1, "d", "f")], "call -1 where 1 is next"),
        ([BEGUN, ToolCallDelta(0, "c")], "has no name"),
        ([BEGUN, CALL, ToolCallDelta(0, "d", arguments=" ")], "has changed its id"),
        ([BEGUN, CALL, ToolCallDelta(0, name="g", arguments=" ")], "has changed its id or name"),
        ([BEGUN, CALL, ToolCallDelta(0)], "an empty fragment"),
        ([BEGUN, ToolCallDelta(0, "", "f", "{}"), Finished("tool_calls")], "call 0 has no id"),
        ([BEGUN, ToolCallDelta(0, "c", "f", "{"), Finished("tool_calls")], "no JSON object"),
        ([BEGUN, ToolCallDelta(0, "c", "f"), Finished("tool_calls")], "no JSON object"),
        ([BEGUN, ToolCallDelta(0, "c", "f", "[1]"), Finished("stop")], "no JSON object"),
        ([BEGUN, CALL, ToolCallDelta(1, "c", "f", "{}"), Finished("tool_calls")], "two calls have one id"),
        ([BEGUN, TEXT, Finished("tool_calls")], "none was called"),
        ([BEGUN, Cited("u", start=-1)], "Cited from -1"),
        ([BEGUN, Cited("u", start=2, end=1)], "Cited from 2 to 1"),
        ([BEGUN, Cited()], "without a source"),
        ([BEGUN, TEXT, Cited("u", end=2), STOP], "up to character 2 of 1"),
        ([BEGUN, LogProbabilities([])], "without tokens"),
        ([BEGUN, LogProbabilities([{"logprob": 1}])], "without tokens"),
        ([BEGUN, UsageReported(TokenUsage(-1))], "negative"),
        ([BEGUN, UsageReported(TokenUsage(1, 1, 2, 1, 0, 1))], "more tokens in the cache"),
        ([BEGUN, UsageReported(TokenUsage(1, 1, 2, 0, 2))], "more reasoning"),
        ([BEGUN, Embedded([1.0], 1)], "of input 1 where 0"),
        ([BEGUN, Embedded([])], "is empty"),
        ([BEGUN, Embedded([1.0]), TEXT], "TextDelta in an answer with Embedded"),
        ([BEGUN, Embedded([1.0]), Moderated({"flagged": False})], "Moderated in an answer with Embedded"),
        ([BEGUN, Moderated({})], "is empty"),
        ([BEGUN, Moderated({"flagged": True}, 1)], "Moderated of input 1 where 0"),
        ([BEGUN, TEXT, Embedded([1.0])], "with choices"),
    ],
)
def test_illegal(events: list[Event], why: str) -> None:
    """The last event is the one that cannot be; what it says is not repeated."""
    grammar = EventGrammar()
    for event in events[:-1]:
        grammar.feed(event)
    with pytest.raises(IllegalSequence, match=why):
        grammar.feed(events[-1])


def test_a_whole_answer_may_lack_the_reason_of_its_end_where_that_is_allowed() -> None:
    checked([BEGUN, TEXT, END], reasons_required=False)
    with pytest.raises(IllegalSequence, match="no JSON object"):
        checked([BEGUN, ToolCallDelta(0, "c", "f", "{"), END], reasons_required=False)


def test_order_matters() -> None:
    """Of many ways to shuffle an answer, those that begin and end as it does may be legal, and no others."""
    events = [BEGUN, TEXT, CALL, ToolCallDelta(1, "d", "g", "{}"), Finished("tool_calls"), END]
    shuffler = random.Random(7)
    for _ in range(200):
        shuffled = shuffler.sample(events, len(events))
        try:
            checked(shuffled)
        except IllegalSequence:
            continue
        assert (shuffled[0], shuffled[-2:]) == (BEGUN, events[-2:])
        assert shuffled.index(CALL) < shuffled.index(events[3])
