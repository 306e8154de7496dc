"""What is asked, how near it is to what targets are for, and what is remembered of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.routing.semantic import MAX_CHARACTERS, Directions, Remembered, Rest, text_of


def asked(operation: Any = "chat", **fields: Any) -> str:
    return text_of(ChatRequest(operation, "m", stream=False, include_usage=False, fields=fields))


class TestText:
    def test_is_that_of_the_users_last_message(self) -> None:
        messages = [
            {"role": "user", "content": "first"},
            {"role": "user", "content": " last "},
            {"role": "assistant", "content": "answer"},
        ]
        assert asked(messages=messages) == "last"

    def test_is_all_its_parts_that_are_texts(self) -> None:
        content = [
            {"type": "text", "text": "a"},
            {"type": "image_url"},
            {"text": 1},
            "x",
            {"type": "text", "text": "b"},
        ]
        assert asked(messages=[{"role": "user", "content": content}]) == "a\nb"

    @pytest.mark.parametrize(
        "messages",
        [
            None,
            [],
            "x",
            [None],
            [{"role": "system", "content": "s"}],
            [{"role": "user"}],
            [{"role": "user", "content": 1}],
        ],
    )
    def test_is_nothing_where_the_user_has_said_nothing(self, messages: Any) -> None:
        assert asked(messages=messages) == ""

    @pytest.mark.parametrize(("prompt", "text"), [("p", "p"), (["a", "b"], "a\nb"), ([1, 2], ""), (None, "")])
    def test_of_a_completion_is_its_prompt(self, prompt: Any, text: str) -> None:
        assert asked("completions", prompt=prompt) == text
        assert asked("embeddings", input=prompt) == text

    def test_is_bounded_and_can_be_written(self) -> None:
        assert asked("completions", prompt="x" * 10_000) == "x" * MAX_CHARACTERS
        assert asked("completions", prompt="a\ud83d") == "a?"


class TestDirections:
    def test_are_compared_by_their_angles_alone(self) -> None:
        found = Directions([[2.0, 0.0], None, [1.0, 1.0], [0.0, 0.0]]).similarities([5.0, 0.0])
        assert found == pytest.approx((1.0, 0.0, math.sqrt(0.5), 0.0))

    def test_one_without_a_direction_is_near_to_nothing(self) -> None:
        assert Directions([[1.0, 0.0]]).similarities([0.0, 0.0]) == (0.0,)

    @pytest.mark.parametrize("vectors", [[[1.0], [1.0, 2.0]], [[math.nan]], [[math.inf, 1.0]]])
    def test_of_several_models_cannot_be_compared(self, vectors: list[list[float]]) -> None:
        with pytest.raises(ValueError, match=r"dimensions|numbers"):
            Directions(vectors)

    def test_a_text_of_another_model_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match="has 1 dimensions, and the descriptions' have 2"):
            Directions([None, [1.0, 2.0]]).similarities([1.0])

    numbers = st.lists(st.floats(-1e308, 1e308), min_size=3, max_size=3)

    @given(numbers, numbers)
    def test_nearness_is_between_minus_one_and_one_whatever_the_numbers(
        self, one: list[float], two: list[float]
    ) -> None:
        [near] = Directions([one]).similarities(two)
        assert -1.0000001 <= near <= 1.0000001


class TestRemembered:
    def test_what_was_asked_for_the_longest_ago_goes_first(self) -> None:
        remembered = Remembered(2)
        remembered.put("a", (1.0,))
        remembered.put("b", (2.0,))
        assert remembered.get("a") == (1.0,)
        remembered.put("c", (3.0,))
        assert [remembered.get(text) for text in "abc"] == [(1.0,), None, (3.0,)]
        assert len(remembered) == 2


class TestRest:
    def test_doubles_with_each_failure_up_to_a_minute(self) -> None:
        rest, now, pauses = Rest(), 0.0, []
        assert rest.is_over(now)
        for _ in range(8):
            rest.failed(now)
            began = now
            while not rest.is_over(now):
                now += 0.5
            pauses.append(now - began)
        assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]

    def test_begins_again_when_it_has_worked(self) -> None:
        rest = Rest()
        rest.failed(0.0)
        rest.failed(1.0)
        rest.worked()
        rest.failed(10.0)
        assert (rest.is_over(10.9), rest.is_over(11.0)) == (False, True)

    def test_failures_that_were_under_way_together_count_once(self) -> None:
        rest = Rest()
        rest.failed(0.0)
        rest.failed(0.5)
        assert rest.is_over(1.0)
