"""A stream across several attempts: for any cut of any answer, what was delivered and what is joined on are the whole; any
divergence is seen before a word of it is shown."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trio_ai_proxy.chat.events import (
    Cited,
    Ended,
    Event,
    Finished,
    LogProbabilities,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.relay.seam import Diverged
from trio_ai_proxy.relay.thread import Thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TEXTS = st.text(alphabet="aab \né漢🌊", max_size=12)


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """`text`, cut anywhere."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=6)) - {len(text)})
    bounds = [0, *[cut for cut in cuts if cut < len(text)], len(text)]
    return [text[start:stop] for start, stop in pairwise(bounds) if start < stop]


@st.composite
def words(draw: st.DrawFn, answer: dict[int, tuple[str, list[tuple[str, str]]]]) -> list[Event]:
    """The events of one telling of `answer`: choice → text and calls. Choices may be told in turn."""
    lanes: list[list[Event]] = []
    for index, (text, calls) in answer.items():
        lane: list[Event] = []
        if draw(st.booleans()):
            lane.append(ReasoningDelta(draw(TEXTS), index))
        lane += [TextDelta(piece, index) for piece in draw(pieces(text))]
        for number, (name, arguments) in enumerate(calls):
            lane.append(ToolCallDelta(number, f"id-{draw(st.integers(0, 99))}", name, "", index))
            lane += [ToolCallDelta(number, arguments=piece, index=index) for piece in draw(pieces(arguments))]
        lane.append(Finished("stop", index))
        lanes.append(lane)
    told: list[Event] = [Started("1", "m")]
    while any(lanes):
        lane = draw(st.sampled_from([lane for lane in lanes if lane]))
        told.append(lane.pop(0))
    return [*told, Ended()]


CALLS = st.lists(st.tuples(st.sampled_from(["find", "open"]), TEXTS), max_size=2)
ANSWERS = st.lists(st.tuples(TEXTS, CALLS), min_size=1, max_size=2).map(lambda choices: dict(enumerate(choices)))


def folded(events: Iterable[Event]) -> dict[int, tuple[str, list[tuple[str, str]], str | None]]:
    """What a client makes of it, but for its thoughts."""
    fold = Fold()
    for event in events:
        fold.add(event)
    return {
        choice.index: (
            choice.text, [(call.name, call.arguments) for call in choice.tool_calls], choice.finish_reason,
        )
        for choice in fold.answer().choices
    }  # fmt: skip


def joined(thread: Thread, events: Sequence[Event], size: int) -> list[Event]:
    """What a restart brings, in batches of `size` events, until it is over."""
    seam = thread.restart()
    new: list[Event] = []
    for start in range(0, len(events), size):
        brought = seam.feed(events[start : start + size])
        thread.note(brought)
        new += brought
    return new


@given(st.data(), ANSWERS, st.integers(1, 5))
def test_delivered_and_continuation_are_the_whole(
    data: st.DataObject, answer: dict[int, tuple[str, list[tuple[str, str]]]], size: int
) -> None:
    thread = Thread()
    delivered: list[Event] = []
    first = data.draw(words(answer))
    cut = data.draw(st.integers(0, len(first) - 2))
    thread.note(first[:cut])
    delivered += first[:cut]
    for _ in range(data.draw(st.integers(0, 2))):
        again = data.draw(words(answer))
        delivered += joined(thread, again[: data.draw(st.integers(0, len(again) - 2))], size)
    delivered += joined(thread, data.draw(words(answer)), size)
    assert folded(delivered) == folded(first)
    assert thread.is_finished(len(answer))
    assert sum(isinstance(event, Finished) for event in delivered) == len(answer)


@given(st.data(), TEXTS, TEXTS)
def test_other_text_is_seen_before_a_word_of_it_is_shown(data: st.DataObject, text: str, other: str) -> None:
    given_text = text[: data.draw(st.integers(0, len(text)))]
    assume(not other.startswith(given_text))
    thread = Thread()
    thread.note([TextDelta(piece) for piece in data.draw(pieces(given_text))])
    seam = thread.restart()
    shown: list[Event] = []

    def show() -> None:
        for event in [*[TextDelta(piece) for piece in data.draw(pieces(other))], Finished("stop"), Ended()]:
            shown.extend(seam.feed([event]))

    with pytest.raises(Diverged):
        show()
    assert shown == []


@given(st.data(), ANSWERS, ANSWERS)
def test_whatever_is_joined_on_is_one_of_the_two_or_none(
    data: st.DataObject,
    answer: dict[int, tuple[str, list[tuple[str, str]]]],
    other: dict[int, tuple[str, list[tuple[str, str]]]],
) -> None:
    """A client never gets a mixture: each choice is what one provider said from its beginning to its end."""
    first, again = data.draw(words(answer)), data.draw(words(other))
    cut = data.draw(st.integers(0, len(first) - 2))
    thread = Thread()
    thread.note(first[:cut])
    try:
        whole = folded([*first[:cut], *joined(thread, again, 1)])
    except Diverged:
        return
    for index, choice in whole.items():
        assert choice in (folded(first).get(index), folded(again).get(index))


class TestSeam:
    @staticmethod
    def after(*events: Event) -> Thread:
        thread = Thread()
        thread.note(events)
        return thread

    def test_nothing_given_is_nothing_to_swallow(self) -> None:
        seam = Thread().restart()
        assert seam.is_closed
        assert seam.feed([TextDelta("a")]) == [TextDelta("a")]

    def test_closes_when_all_is_said_again(self) -> None:
        seam = self.after(TextDelta("abc")).restart()
        assert seam.feed([TextDelta("ab")]) == []
        assert not seam.is_closed
        assert seam.feed([TextDelta("cd")]) == [TextDelta("d")]
        assert seam.is_closed

    @pytest.mark.parametrize("end", [Finished("stop"), Ended()])
    def test_shorter_restart_has_diverged(self, end: Event) -> None:
        with pytest.raises(Diverged):
            self.after(TextDelta("abc")).restart().feed([TextDelta("ab"), end])

    def test_choice_that_had_only_thought_may_not_be_missing(self) -> None:
        seam = self.after(TextDelta("a"), ReasoningDelta("Hm.", 1)).restart()
        said = [TextDelta("ab"), Finished("stop"), Ended()]
        with pytest.raises(Diverged):
            seam.feed(said)

    def test_exact_restart_is_no_divergence(self) -> None:
        seam = self.after(TextDelta("abc")).restart()
        assert seam.feed([TextDelta("abc"), Finished("stop"), Ended()]) == [Finished("stop"), Ended()]

    def test_refusal_is_compared(self) -> None:
        thread = self.after(RefusalDelta("I c"))
        assert thread.text is None
        assert thread.restart().feed([RefusalDelta("I cannot")]) == [RefusalDelta("annot")]
        with pytest.raises(Diverged):
            thread.restart().feed([RefusalDelta("No")])

    def test_citation_is_there_once(self) -> None:
        one, two = Cited(url="http://a", quote="x"), Cited(url="http://b", quote="y")
        seam = self.after(TextDelta("abc"), one).restart()
        assert seam.feed([TextDelta("abc"), one, TextDelta("d"), two]) == [TextDelta("d"), two]

    def test_probabilities_are_there_once(self) -> None:
        def tokens(*words: str) -> LogProbabilities:
            return LogProbabilities([{"token": word, "logprob": -1.0} for word in words])

        seam = self.after(TextDelta("abc"), tokens("abc")).restart()
        assert seam.feed([TextDelta("ab"), tokens("ab")]) == []
        assert seam.feed([TextDelta("cde"), tokens("c", "de")]) == [TextDelta("de"), tokens("de")]
        assert seam.feed([TextDelta("f"), tokens("f")]) == [TextDelta("f"), tokens("f")]

    def test_thought_of_a_restart_is_hidden_until_it_says_something_new(self) -> None:
        seam = self.after(ReasoningDelta("Hm."), TextDelta("a")).restart()
        assert seam.feed([ReasoningDelta("Well."), TextDelta("a")]) == []
        assert seam.feed([TextDelta("b"), ReasoningDelta("More.")]) == [TextDelta("b"), ReasoningDelta("More.")]

    def test_usage_and_head_pass(self) -> None:
        seam = self.after(TextDelta("a")).restart()
        others = [Started("2", "m"), UsageReported(TokenUsage(1, 2, 3))]
        assert seam.feed(others) == others

    def test_calls_name_may_be_said_with_each_piece(self) -> None:
        seam = self.after(ToolCallDelta(0, "c", "find", '{"a')).restart()
        said = [ToolCallDelta(0, "d", "find", '{"'), ToolCallDelta(0, "d", "find", 'a":1}')]
        assert seam.feed(said) == [ToolCallDelta(0, arguments='":1}')]


class TestGoingOn:
    @pytest.mark.parametrize(
        ("given_text", "said", "new"),
        [
            ("The sea", [" is"], [" is"]),
            ("The sea ", [" is"], ["is"]),
            ("The sea ", ["is"], ["is"]),
            ("The sea \n", [" ", "\n", "is"], ["is"]),
            ("The sea \n", [" \nis", " \n"], ["is", " \n"]),
            ("The sea \n", ["\nis"], ["\nis"]),
            ("The sea ", ["is", " wide"], ["is", " wide"]),
        ],
    )
    def test_blank_at_the_end_is_there_once(self, given_text: str, said: list[str], new: list[str]) -> None:
        thread = Thread()
        thread.note([TextDelta(given_text)])
        seam = thread.go_on()
        found = [event for word in said for event in seam.feed([TextDelta(word)])]
        assert found == [TextDelta(word) for word in new]


class TestText:
    def test_is_all_that_was_given(self) -> None:
        thread = Thread()
        assert thread.text is None
        thread.note([Started("1", "m"), ReasoningDelta("Hm."), TextDelta("a"), TextDelta("b")])
        assert thread.text == "ab"

    @pytest.mark.parametrize(
        "more", [ToolCallDelta(0, "c", "f"), RefusalDelta("No"), TextDelta("x", 1), Finished("stop")]
    )
    def test_is_none_where_text_is_not_all(self, more: Event) -> None:
        thread = Thread()
        thread.note([TextDelta("a"), more])
        assert thread.text is None

    def test_finished_counts_every_choice(self) -> None:
        thread = Thread()
        thread.note([TextDelta("a"), Finished("stop")])
        assert thread.is_finished(1)
        assert not thread.is_finished(2)
        thread.note([TextDelta("b", 1)])
        assert not thread.is_finished(1)
