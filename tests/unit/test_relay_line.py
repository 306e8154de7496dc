from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.event_strategies import answers
from support.judges import ScriptedJudge

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Event,
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
from trio_ai_proxy.chat.grammar import EventGrammar
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.guards.base import Block, Pass, Replace, Window
from trio_ai_proxy.relay.line import Line, Ticket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ai_proxy.guards.base import Mode

USAGE = UsageReported(TokenUsage(1, 1, 2))
STARTED = Started("id", "m")


def line(mode: Mode = "hold", **more: object) -> Line:
    return Line(ScriptedJudge(mode=mode, **more))  # type: ignore[arg-type]


def folded(events: Iterable[Event]) -> Answer:
    fold = Fold()
    for event in events:
        fold.add(event)
    return fold.answer()


def logprobs(index: int = 0) -> LogProbabilities:
    return LogProbabilities([{"token": "a", "logprob": -1.0}], index)


# -- whatever is said -------------------------------------------------------------------------------------------------


@given(answers(), st.randoms(use_true_random=False), st.integers(1, 9), st.booleans(), st.booleans())
def test_answer_that_passes_is_the_answer_that_came_whenever_the_verdicts_come(
    said: list[Event], random: object, window: int, by_sentence: bool, hold: bool
) -> None:
    one = line("hold" if hold else "beside", window=window, by_sentence=by_sentence)
    waiting: list[Ticket] = []
    out: list[Event] = []

    def decide_some(share: float) -> None:
        for ticket in [each for each in waiting if random.random() < share]:  # type: ignore[attr-defined]
            waiting.remove(ticket)
            one.decide(ticket, Pass())
            out.extend(one.take())

    for event in said:
        waiting += one.feed([event])
        out += one.take()
        decide_some(0.3)
    waiting += one.close()
    while waiting:
        assert one.is_waiting
        assert not any(isinstance(event, Ended) for event in out)
        decide_some(0.5)
    assert one.is_empty
    assert one.held == 0
    assert not one.is_waiting
    assert folded(out) == folded(said)
    grammar = EventGrammar()
    for event in out:
        grammar.feed(event)
    grammar.close()


@given(answers(most_choices=2), st.integers(1, 9), st.booleans())
def test_windows_and_the_answer_do_not_depend_on_how_the_text_is_cut(
    said: list[Event], window: int, by_sentence: bool
) -> None:
    def windows(events: list[Event]) -> list[Window]:
        one = line(window=window, by_sentence=by_sentence)
        found = [ticket.window for event in events for ticket in one.feed([event])]
        found += [ticket.window for ticket in one.close()]
        return sorted(found, key=lambda each: (each.index, each.part, each.call))

    cut: list[Event] = []
    for event in said:
        match event:
            case TextDelta() | ReasoningDelta() | RefusalDelta():
                cut += [type(event)(letter, event.index) for letter in event.text]
            case _:
                cut.append(event)
    assert windows(cut) == windows(said)


@given(answers(), st.integers(1, 5))
def test_windows_joined_are_the_text_of_their_part_and_their_context_is_what_was_before(
    said: list[Event], window: int
) -> None:
    one = line(window=window, overlap=3)
    found = [ticket.window for ticket in [*one.feed(said), *one.close()]]
    answer = folded(said)
    for choice in answer.choices:
        for part, text in (("text", choice.text), ("reasoning", choice.reasoning), ("refusal", choice.refusal)):
            mine = [each for each in found if (each.index, each.part) == (choice.index, part)]
            assert "".join(each.new for each in mine) == text
            before = ""
            for each in mine:
                assert each.context == before[-3:]
                before += each.new
        for call, made in enumerate(choice.tool_calls):
            mine = [each for each in found if (each.index, each.part, each.call) == (choice.index, "arguments", call)]
            assert "".join(each.new for each in mine) == made.arguments
            assert all(not each.is_last for each in mine[:-1])


# -- hold -------------------------------------------------------------------------------------------------------------


def test_nothing_of_a_window_leaves_before_its_verdict_and_all_of_it_then_in_one_delta() -> None:
    one = line(window=6)
    [ticket] = one.feed([STARTED, TextDelta("ab"), TextDelta("cd"), TextDelta("efgh")])
    assert one.take() == [STARTED]
    assert ticket.window == Window("text", 0, 0, "abcdef", "", is_last=False)
    assert one.held == 8
    one.decide(ticket, Pass())
    assert one.take() == [TextDelta("abcdef")]
    assert one.held == 2


def test_verdicts_out_of_order_let_out_in_order() -> None:
    one = line(window=2)
    first, second, third = one.feed([TextDelta("aabbcc")])
    one.decide(third, Pass())
    one.decide(second, Replace("X"))
    assert one.take() == []
    one.decide(first, Pass())
    assert one.take() == [TextDelta("aa"), TextDelta("X"), TextDelta("cc")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_block_stops_its_window_and_all_after_it_whatever_came_first(order: tuple[int, ...]) -> None:
    one = line(window=2)
    tickets = one.feed([TextDelta("aabbcc")])
    verdicts = [Pass(), Block("no"), Pass()]
    for place in order:
        one.decide(tickets[place], verdicts[place])
    out = one.take()
    assert out == ([TextDelta("aa")] if order.index(0) < order.index(1) else [])
    assert one.feed([TextDelta("dd"), Finished("stop"), Ended()]) == []
    assert one.close() == []
    assert one.take() == []
    assert one.is_empty
    assert one.held == 0


def test_choices_do_not_wait_for_one_another_and_the_end_waits_for_all() -> None:
    one = line(window=9)
    first = one.feed([TextDelta("a", 0), TextDelta("b", 1), Finished("stop", 0)])
    second = one.feed([Finished("stop", 1), USAGE, Ended()])
    one.decide(second[0], Pass())
    assert one.take() == [TextDelta("b", 1), Finished("stop", 1)]
    one.decide(first[0], Pass())
    assert one.take() == [TextDelta("a"), Finished("stop"), USAGE, Ended()]


def test_part_that_makes_a_pause_is_judged_at_once_and_what_follows_leaves_after_it() -> None:
    one = line(window=99)
    assert one.feed([ReasoningDelta("Hm")]) == []
    [thought] = one.feed([TextDelta("Yes")])
    assert thought.window == Window("reasoning", 0, 0, "Hm", "", is_last=False)
    [text] = one.feed([ToolCallDelta(0, "id", "f", '{"a"')])
    calls = one.feed([ToolCallDelta(0, arguments=":1}"), ToolCallDelta(1, "id2", "g", "{}"), Finished("tool_calls")])
    assert [ticket.window for ticket in calls] == [
        Window("arguments", 0, 0, '{"a":1}', "", is_last=True),
        Window("arguments", 0, 1, "{}", "", is_last=True),
    ]
    for ticket in (*calls, text):
        one.decide(ticket, Pass())
    assert one.take() == []
    one.decide(thought, Pass())
    assert one.take() == [
        ReasoningDelta("Hm"),
        TextDelta("Yes"),
        ToolCallDelta(0, "id", "f"),
        ToolCallDelta(0, arguments='{"a":1}'),
        ToolCallDelta(1, "id2", "g"),
        ToolCallDelta(1, arguments="{}"),
        Finished("tool_calls"),
    ]


def test_calls_told_side_by_side_are_judged_in_whole_windows() -> None:
    one = line(window=4)
    said: list[Event] = [ToolCallDelta(call, f"id{call}", "f") for call in (0, 1)]
    for letter in "abcd":
        said += [ToolCallDelta(0, arguments=letter), ToolCallDelta(1, arguments=letter.upper())]
    assert [ticket.window.new for ticket in one.feed(said)] == ["abcd", "ABCD"]


def test_parts_that_are_not_judged_pass_behind_what_is() -> None:
    one = line(parts=frozenset({"text"}), window=99)
    assert one.feed([ReasoningDelta("Hm")]) == []
    assert one.take() == [ReasoningDelta("Hm")]
    call = ToolCallDelta(0, "id", "f", "{}")
    [ticket] = one.feed([TextDelta("Yes"), call])
    assert one.take() == []
    one.decide(ticket, Pass())
    assert [folded(one.take()).choices[0].tool_calls[0].arguments] == ["{}"]


def test_text_that_was_replaced_takes_what_was_said_of_it_along() -> None:
    one = line(window=2)
    said: list[Event] = [
        TextDelta("aa"),
        logprobs(),
        Cited("u", start=0, end=2),
        TextDelta("b"),
        logprobs(),
        TextDelta("b"),
    ]
    first, second = one.feed(said)
    one.decide(first, Pass())
    assert one.take() == [TextDelta("aa"), logprobs(), Cited("u", start=0, end=2)]
    one.decide(second, Replace("X"))
    assert one.take() == [TextDelta("X")]
    # What comes later is of text that is not where the client has it; where a source is from holds all the same.
    one.feed([logprobs(), Cited("v", start=1, end=3)])
    assert one.take() == [Cited("v")]


def test_replacement_by_nothing_says_nothing() -> None:
    one = line(window=2)
    [ticket] = one.feed([TextDelta("aa")])
    one.decide(ticket, Replace(""))
    assert one.take() == []
    assert one.held == 0


def test_thought_that_was_replaced_is_not_proved_any_more_and_the_next_one_is() -> None:
    one = line(window=99)
    sealed, redacted = ReasoningSealed("sig"), ReasoningSealed(redacted="dark")
    [first] = one.feed([ReasoningDelta("a"), sealed])
    [second] = one.feed([redacted, ReasoningDelta("b"), sealed])
    one.decide(first, Replace("X"))
    one.decide(second, Pass())
    assert one.take() == [ReasoningDelta("X"), redacted, ReasoningDelta("b"), sealed]


def test_delta_without_text_keeps_its_place_and_closes_nothing() -> None:
    one = line(window=99)
    assert one.feed([TextDelta(""), TextDelta("a"), ReasoningDelta(""), TextDelta("b")]) == []
    assert one.take() == [TextDelta("")]
    [ticket] = one.close()
    assert ticket.window.new == "ab"
    one.decide(ticket, Pass())
    assert one.take() == [TextDelta("a"), ReasoningDelta(""), TextDelta("b")]


def test_replaced_arguments_stay_with_their_call() -> None:
    one = line(window=99)
    [ticket] = one.feed([ToolCallDelta(1, "id", "f", '{"a":1}', 2, "sig"), Finished("tool_calls", 2)])
    one.decide(ticket, Replace("{}"))
    assert one.take() == [
        ToolCallDelta(1, "id", "f", "", 2, "sig"),
        ToolCallDelta(1, arguments="{}", index=2),
        Finished("tool_calls", 2),
    ]


# -- beside -----------------------------------------------------------------------------------------------------------


def test_beside_all_leaves_as_it_came_but_for_the_end() -> None:
    one = line("beside", window=2)
    said: list[Event] = [STARTED, USAGE, TextDelta("aab"), logprobs(), ToolCallDelta(0, "id", "f", "{}")]
    tickets = one.feed(said)
    assert one.take() == said
    assert not one.is_waiting  # nothing is kept from the client
    tickets += one.feed([Finished("tool_calls"), USAGE, Ended()])
    assert [ticket.window.new for ticket in tickets] == ["aa", "b", "{}"]
    assert one.take() == []
    assert one.is_waiting
    for ticket in tickets:
        one.decide(ticket, Replace("too late"))
    assert one.take() == [Finished("tool_calls"), USAGE, Ended()]


def test_beside_a_block_drops_what_has_not_left() -> None:
    one = line("beside", window=2)
    [ticket] = one.feed([TextDelta("aa")])
    assert one.take() == [TextDelta("aa")]
    one.feed([TextDelta("b")])
    one.decide(ticket, Block("no"))
    assert one.take() == []
    assert one.held == 0
