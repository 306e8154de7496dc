from __future__ import annotations

from time import process_time

from trio_ai_proxy.chat.events import (
    Ended,
    Failed,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.fold import Answer, Choice, Fold, ToolCall
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import UpstreamError


def fold(*events) -> Answer:
    gathered = Fold()
    for event in events:
        gathered.add(event)
    return gathered.answer()


def test_everything_said_is_gathered() -> None:
    usage = TokenUsage(1, 2, 3)
    assert fold(
        Started("i", "m", 5, "fp"),
        ReasoningDelta("Let "),
        ReasoningDelta("me"),
        TextDelta("Hel"),
        TextDelta("lo"),
        RefusalDelta("no"),
        Finished("stop"),
        UsageReported(TokenUsage(9, 9, 9)),
        UsageReported(usage),
        Ended(),
    ) == Answer("i", "m", 5, "fp", [Choice(0, "Hello", "Let me", "no", [], "stop")], usage)


def test_choices_are_kept_apart_and_given_in_order() -> None:
    answer = fold(TextDelta("b", 1), TextDelta("a", 0), TextDelta("b", 1), Finished("length", 1), Finished("stop", 0))
    assert answer.choices == [Choice(0, "a", finish_reason="stop"), Choice(1, "bb", finish_reason="length")]


def test_fragments_of_tool_calls_are_joined() -> None:
    answer = fold(
        ToolCallDelta(1, "b", "g", "{"),
        ToolCallDelta(0, "a", "f"),
        ToolCallDelta(0, arguments='{"x":'),
        ToolCallDelta(1, arguments="}"),
        ToolCallDelta(0, arguments="1}"),
    )
    assert answer.choices[0].tool_calls == [ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}")]


def test_id_and_name_repeated_with_every_fragment_count_once() -> None:
    answer = fold(ToolCallDelta(0, "a", "f", "{"), ToolCallDelta(0, "a", "f", "}"))
    assert answer.choices[0].tool_calls == [ToolCall("a", "f", "{}")]


def test_what_was_not_said_is_not_made_up() -> None:
    assert fold(TextDelta("a"), Failed(UpstreamError("m"))) == Answer("", "", choices=[Choice(0, "a")])
    assert fold() == Answer("", "")


def test_model_can_be_given_the_clients_name() -> None:
    gathered = Fold()
    gathered.add(Started("i", "m"))
    assert gathered.answer(model="theirs").model == "theirs"


def test_cost_grows_with_the_number_of_deltas_and_not_with_its_square() -> None:
    """0.1 s of the processor; texts joined at each delta would copy 10 GB."""
    gathered = Fold()
    began = process_time()
    for _ in range(200_000):
        gathered.add(TextDelta("x"))
        gathered.add(ToolCallDelta(0, arguments="y"))
    (choice,) = gathered.answer().choices
    assert (len(choice.text), len(choice.tool_calls[0].arguments)) == (200_000, 200_000)
    assert process_time() - began < 3
