"""Any answer, in any order of events: each part is what it would have been alone and whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import re2
from hypothesis import given
from hypothesis import strategies as st
from support.event_strategies import answers

from trio_ai_proxy.chat.events import (
    Event,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    ReasoningSealed,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from trio_ai_proxy.guards.json_text import JSONText
from trio_ai_proxy.guards.matcher import Patterns
from trio_ai_proxy.guards.parts import RedactingFilter
from trio_ai_proxy.guards.patterns import own_pattern
from trio_ai_proxy.guards.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ai_proxy.guards.patterns import Pattern

# Of the texts that the strategies make, these find a good deal.
PATTERNS = Patterns([own_pattern("same", r"(?i)[a-m]\pL?[0-9]"), own_pattern("two", r"\pN+\pL|é.?")])


def redaction() -> Redaction:
    def substitute(pattern: Pattern, text: str) -> str | None:
        return f"[{pattern.name}]"

    on_overflow: Literal["block"] = "block"
    return Redaction("g", PATTERNS, substitute, window=100, on_overflow=on_overflow, of="answer")


Key = tuple[object, ...]


def parts_of(events: Sequence[Event]) -> dict[Key, str]:
    """Each part as the client joins it."""
    parts: dict[Key, str] = {}
    for event in events:
        if isinstance(event, TextDelta | ReasoningDelta | RefusalDelta):
            key: Key = (type(event), event.index)
            parts[key] = parts.get(key, "") + event.text
        elif isinstance(event, ToolCallDelta):
            key = (ToolCallDelta, event.index, event.call)
            parts[key] = parts.get(key, "") + event.arguments
    return parts


def alone(key: Key, text: str) -> str:
    if key[0] is not ToolCallDelta:
        return redaction().whole(text)
    stage = JSONText(redaction())
    return stage.feed(text) + stage.close()


@given(answers(), st.data())
def test_each_part_is_what_it_would_be_alone_and_whole(events: list[Event], data: st.DataObject) -> None:
    told = [event for event in events if not isinstance(event, ReasoningSealed)]
    stage = RedactingFilter(redaction())
    out: list[Event] = []
    at = 0
    while at < len(told):
        size = data.draw(st.integers(1, 4))
        out += stage.feed(told[at : at + size])
        at += size
    out += stage.close()
    before, after = parts_of(told), parts_of(out)
    assert {key: text for key, text in after.items() if text} == {
        key: left for key, text in before.items() if (left := alone(key, text))
    }
    assert (stage.held, stage.blocked) == (0, None)
    ends = [event for event in told if isinstance(event, Finished)]
    assert [event for event in out if isinstance(event, Finished)] == ends
    for end in ends:
        behind = out[out.index(end) + 1 :]
        assert not any(getattr(event, "index", -1) == end.index for event in behind)


@given(answers())
def test_where_nothing_is_found_nothing_changes(events: list[Event]) -> None:
    def substitute(pattern: Pattern, text: str) -> str | None:
        raise AssertionError(text)

    nothing = Patterns([own_pattern("nothing", r"\x{E000}+\x{E001}")])
    on_overflow: Literal["block"] = "block"
    stage = RedactingFilter(Redaction("g", nothing, substitute, window=9, on_overflow=on_overflow, of="answer"))
    told = [msgspec.structs.replace(event) for event in events if not isinstance(event, LogProbabilities)]
    told = [event for event in told if not isinstance(event, ReasoningSealed)]
    out = [left for event in told for left in stage.feed([event])]
    assert parts_of([*out, *stage.close()]) == parts_of(told)
    assert stage.hits == 0


SECRET = re2.compile("ab*1+2")


@given(st.lists(st.sampled_from([*"ab12", "|"]), max_size=24))
def test_no_thought_says_a_match_however_it_is_sealed(said: list[str]) -> None:
    stage = RedactingFilter(
        Redaction(
            "g",
            Patterns([own_pattern("x", SECRET.pattern)]),
            lambda *_: "[]",
            window=50,
            on_overflow="block",
            of="answer",
        )
    )
    events: list[Event] = [ReasoningSealed("s") if one == "|" else ReasoningDelta(one) for one in said]
    left = ""
    for event in events:
        for out in stage.feed([event]):
            left += out.text if isinstance(out, ReasoningDelta) else ""
            assert SECRET.search(left) is None
    for out in stage.close():
        left += out.text if isinstance(out, ReasoningDelta) else ""
    assert SECRET.search(left) is None
