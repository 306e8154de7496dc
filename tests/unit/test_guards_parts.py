from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import pytest

from trio_ai_proxy.chat.events import (
    Cited,
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
from trio_ai_proxy.chat.fold import Answer, Fold
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamError
from trio_ai_proxy.guards.matcher import Patterns
from trio_ai_proxy.guards.parts import PassingFilter, RedactingFilter
from trio_ai_proxy.guards.patterns import NAMED, own_pattern
from trio_ai_proxy.guards.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ai_proxy.guards.base import Filter
    from trio_ai_proxy.guards.patterns import Pattern

PATTERNS = Patterns([*NAMED["email"], *NAMED["card"], *NAMED["api_key"], own_pattern("pin", "pin[0-9]{4}")])
SECRET = "sk-ant-api03-" + "aB3_" * 6 + "xYz"
USAGE = UsageReported(TokenUsage(1, 2, 3))


def a_filter(*, blocks: bool = False, text_is_json: bool = False, window: int = 256) -> RedactingFilter:
    def substitute(pattern: Pattern, text: str) -> str | None:
        return None if blocks else f"[{pattern.name}]"

    on_overflow: Literal["block"] = "block"
    redaction = Redaction("pii", PATTERNS, substitute, window=window, on_overflow=on_overflow, of="answer")
    return RedactingFilter(redaction, text_is_json=text_is_json)


def feed_all(stage: Filter, events: Sequence[Event]) -> list[Event]:
    out = [left for event in events for left in stage.feed([event])]
    return out + stage.close()


def folded(events: Sequence[Event]) -> Answer:
    fold = Fold()
    for event in events:
        fold.add(event)
    return fold.answer()


MAKERS: list[tuple[str, Callable[[str], Event], Callable[[Answer], str]]] = [
    ("text", TextDelta, lambda answer: answer.choices[0].text),
    ("reasoning", ReasoningDelta, lambda answer: answer.choices[0].reasoning),
    ("refusal", RefusalDelta, lambda answer: answer.choices[0].refusal),
    (
        "arguments",
        lambda text: ToolCallDelta(0, arguments=text),
        lambda answer: answer.choices[0].tool_calls[0].arguments,
    ),
]


@pytest.mark.parametrize(("make", "of"), [maker[1:] for maker in MAKERS], ids=[maker[0] for maker in MAKERS])
def test_no_character_of_a_secret_leaves_in_any_part_wherever_it_is_cut(
    make: Callable[[str], Event], of: Callable[[Answer], str]
) -> None:
    around = '{{"né🙂":"日本 {}\u00a0é"}}' if of is MAKERS[3][2] else "né🙂 日本 {}\u00a0é"
    whole, expected = around.format(SECRET), around.format("[api_key]")
    start = whole.index(SECRET)
    assert of(folded(feed_all(a_filter(), [make(whole), Finished("stop")]))) == expected
    for cut in range(41):
        stage = a_filter()
        left = stage.feed([make(whole[: start + cut])])
        assert SECRET[:3] not in of(folded([*left, make("")]))
        left += stage.feed([make(whole[start + cut :]), Finished("stop"), Ended()])
        assert of(folded(left)) == expected
        assert (stage.hits, stage.held, stage.blocked) == (1, 0, None)
    one_by_one = [make(character) for character in whole]
    assert of(folded(feed_all(a_filter(), [*one_by_one, Finished("stop")]))) == expected


def test_parts_that_come_mixed_are_kept_apart_and_do_not_wait_for_one_another() -> None:
    events: list[Event] = []
    for character in "pin1234.":
        events += [
            TextDelta(character),
            ReasoningDelta(character),
            RefusalDelta(character),
            TextDelta(character, 1),
            ToolCallDelta(0, arguments=character),
            ToolCallDelta(1, arguments=character),
        ]
    out = feed_all(a_filter(), [*events, Finished("stop"), Finished("stop", 1)])
    one, two = folded(out).choices
    assert {one.text, one.reasoning, one.refusal, two.text, *(call.arguments for call in one.tool_calls)} == {"[pin]."}

    stage = a_filter()
    assert stage.feed([TextDelta("pin1"), TextDelta("hello. ", 1), ReasoningDelta("so. ")]) == [
        TextDelta("hello. ", 1),
        ReasoningDelta("so. "),
    ]
    assert stage.held == 4


def test_what_is_held_leaves_before_the_end_of_its_choice_and_of_no_other() -> None:
    stage = a_filter()
    assert stage.feed([TextDelta("pin1"), TextDelta("pin2", 1), ToolCallDelta(0, "i", "f", '{"a":"pin3', 1)]) == [
        ToolCallDelta(0, "i", "f", '{"a":"', 1)
    ]
    assert stage.feed([Finished("stop")]) == [TextDelta("pin1"), Finished("stop")]
    assert stage.feed([Finished("stop", 1)]) == [
        TextDelta("pin2", 1),
        ToolCallDelta(0, arguments="pin3", index=1),
        Finished("stop", 1),
    ]
    assert stage.close() == []


@pytest.mark.parametrize("end", [Ended(), Failed(UpstreamError("gone"))])
def test_what_is_held_leaves_before_the_end_of_all_and_at_the_close(end: Event) -> None:
    stage = a_filter()
    stage.feed([TextDelta("pin1")])
    assert stage.feed([end]) == [TextDelta("pin1"), end]
    stage = a_filter()
    stage.feed([TextDelta("pin1")])
    assert (stage.close(), stage.held, stage.close()) == ([TextDelta("pin1")], 0, [])


def test_a_pause_releases_nothing() -> None:
    stage = a_filter()
    assert stage.feed([TextDelta("pin12")]) == []
    for _ in range(10):
        assert stage.feed([]) == []
        assert stage.feed([USAGE, TextDelta("")]) == [USAGE, TextDelta("")]
    assert stage.held == 5
    assert stage.feed([TextDelta("34 ")]) == [TextDelta("[pin] ")]


def test_events_without_text_of_an_answer_pass_as_they_are() -> None:
    events: list[Event] = [Started("i", "m"), TextDelta("Hello, "), ToolCallDelta(0, "i", "f"), USAGE, Ended()]
    stage = a_filter()
    out = stage.feed(events)
    assert all(left is came for left, came in zip(out, events, strict=True))


def test_names_and_citations_are_looked_into_whole() -> None:
    stage = a_filter()
    out = stage.feed(
        [
            ToolCallDelta(0, "call", "mail_bob@x.org", "{}", signature="c2ln"),
            Cited("https://h/?k=" + SECRET, "by bob@x.org", "doc", "card 4111111111111111.", 2, 5),
        ]
    )
    assert out == [
        ToolCallDelta(0, "call", "[email]", "{}", signature="c2ln"),
        Cited("https://h/?k=[api_key]", "by [email]", "doc", "card [card].", 2, 5),
    ]
    assert stage.hits == 4


def test_places_of_a_citation_are_left_out_once_the_text_has_changed() -> None:
    out = a_filter().feed(
        [
            TextDelta("pin1234 is it. "),
            TextDelta("ok. ", 1),
            Cited("u", start=1, end=3),
            Cited("u", start=1, end=3, index=1),
        ]
    )
    assert out[-2:] == [Cited("u"), Cited("u", start=1, end=3, index=1)]


def test_probabilities_of_tokens_do_not_leave() -> None:
    tokens = [{"token": "pin1234", "logprob": -1.0}]
    assert a_filter().feed([TextDelta("a. "), LogProbabilities(tokens), TextDelta("b. ")]) == [
        TextDelta("a. "),
        TextDelta("b. "),
    ]


class TestSeal:
    def test_an_unchanged_thought_is_whole_before_its_seal(self) -> None:
        stage = a_filter()
        seal = ReasoningSealed("sig")
        assert stage.feed([ReasoningDelta("so pin1"), seal]) == [ReasoningDelta("so "), ReasoningDelta("pin1"), seal]
        assert stage.held == 0

    def test_a_changed_thought_loses_its_signature_and_the_next_keeps_its_own(self) -> None:
        stage = a_filter()
        events = [ReasoningDelta("so pin1234."), ReasoningSealed("one"), ReasoningDelta("Ah."), ReasoningSealed("two")]
        assert [thought for choice in folded(feed_all(stage, events)).choices for thought in choice.thoughts] == [
            *folded([ReasoningDelta("so [pin]."), ReasoningSealed()]).choices[0].thoughts,
            *folded([ReasoningDelta("Ah."), ReasoningSealed("two")]).choices[0].thoughts,
        ]

    def test_a_secret_over_two_thoughts_is_never_whole(self) -> None:
        for cut in range(1, 7):
            stage = a_filter()
            events = [
                ReasoningDelta("pin1234"[:cut]),
                ReasoningSealed("one"),
                ReasoningDelta("pin1234"[cut:] + "."),
                ReasoningSealed("two"),
            ]
            out = feed_all(stage, events)
            reasoning = folded(out).choices[0].reasoning
            assert reasoning == "pin1234"[:cut] + "[pin]."
            assert [event.signature for event in out if isinstance(event, ReasoningSealed)] == ["one", ""]
            assert stage.hits == 1

    def test_a_thought_in_the_providers_own_encoding_passes(self) -> None:
        sealed = ReasoningSealed(redacted="bob@x.org")
        assert a_filter().feed([sealed]) == [sealed]
        assert a_filter().feed([ReasoningDelta("pin1234, "), sealed]) == [ReasoningDelta("[pin], "), sealed]


class TestBlock:
    @pytest.mark.parametrize("size", [1, 3, 100])
    def test_the_answer_ends_before_the_match(self, size: int) -> None:
        stage = a_filter(blocks=True)
        text = "Hello, it is pin1234 and more"
        events: list[Event] = [TextDelta(text[at : at + size]) for at in range(0, len(text), size)]
        out = feed_all(stage, [ReasoningDelta("pin1"), *events, Finished("stop"), Ended()])
        assert folded(out).choices[0].text == "Hello, it is "
        assert not any(isinstance(event, Finished | Ended | ReasoningDelta) for event in out)
        assert stage.blocked is not None
        assert (stage.blocked.guard, stage.blocked.status, stage.hits) == ("pii", 400, 1)
        assert "`pin`" in stage.blocked.message
        assert "1234" not in stage.blocked.message

    @pytest.mark.parametrize(
        "event",
        [
            ToolCallDelta(0, "i", "bob@x.org"),
            Cited(quote="bob@x.org"),
            ToolCallDelta(0, "i", "f", '{"a":4111111111111111}'),
        ],
    )
    def test_everywhere(self, event: Event) -> None:
        stage = a_filter(blocks=True)
        out = feed_all(stage, [TextDelta("Hello. "), event, TextDelta("more")])
        assert stage.blocked is not None
        assert out[0] == TextDelta("Hello. ")
        assert "bob" not in str(out)
        assert "4111" not in str(out)

    def test_what_completes_a_match_at_the_end_blocks_too(self) -> None:
        stage = a_filter(blocks=True)
        assert stage.feed([TextDelta("see bob@x.org")]) == [TextDelta("see ")]
        assert stage.feed([Finished("stop"), Ended()]) == []
        assert stage.blocked is not None

    def test_a_match_that_is_too_long_is_told_apart(self) -> None:
        stage = a_filter(window=4)
        assert stage.feed([TextDelta("a pin1"), TextDelta("234")]) == [TextDelta("a ")]
        assert stage.blocked is not None
        assert stage.blocked.message == (
            "The answer ends here: what follows holds something that may be `email`, and is longer than 4 characters."
        )


def test_a_text_that_is_json_is_read_as_json() -> None:
    text = json.dumps({"a": "x\nbob@x.org", "card": 4111111111111111})
    out = feed_all(a_filter(text_is_json=True), [TextDelta(character) for character in text])
    assert json.loads(folded(out).choices[0].text) == {"a": "x\n[email]", "card": "[card]"}
    out = feed_all(a_filter(text_is_json=True), [ReasoningDelta('"\\u0070in1234"')])
    assert folded(out).choices[0].reasoning == '"\\u0070in1234"'


def test_where_nothing_is_looked_for_all_passes() -> None:
    stage = PassingFilter()
    events: list[Event] = [TextDelta("pin1"), LogProbabilities([]), Finished("stop")]
    assert (stage.feed(events), stage.close(), stage.held, stage.hits, stage.blocked) == (events, [], 0, 0, None)
