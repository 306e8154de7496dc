"""Whose turn it is in a queue: the keys go round, and the longest line gives a place up."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.guards.turns import Pace, Turns


def turns(*keys: str | None) -> Turns[int]:
    """A queue in which these wait, numbered from 0."""
    queue: Turns[int] = Turns()
    for number, key in enumerate(keys):
        queue.add(key, number)
    return queue


def rest(queue: Turns[int]) -> list[int]:
    return [queue.next() for _ in range(len(queue))]


def test_of_one_key_first_come_first_served() -> None:
    assert rest(turns("a", "a", "a")) == [0, 1, 2]


def test_keys_take_turns() -> None:
    assert rest(turns("a", "a", "a", "b", "c", "b")) == [0, 3, 4, 1, 5, 2]


def test_nobody_is_a_key_like_another() -> None:
    assert rest(turns(None, None, "a", None)) == [0, 2, 1, 3]


def test_who_comes_later_has_its_turn_after_all_others() -> None:
    queue = turns("a", "a", "b")
    assert queue.next() == 0  # the next turn is that of b, and then of a
    queue.add("c", 3)
    assert rest(queue) == [2, 1, 3]


def test_who_had_its_turn_and_comes_again_waits_for_all_others() -> None:
    queue = turns("a", "b", "c")
    assert queue.next() == 0
    queue.add("a", 3)
    assert rest(queue) == [1, 2, 3]


def test_one_that_leaves_does_not_move_the_turn_of_its_key() -> None:
    queue = turns("a", "a", "b")
    queue.remove("a", 0)
    assert rest(queue) == [1, 2]


def test_one_of_a_thousand_does_not_wait_for_the_thousand() -> None:
    queue = turns(*["a"] * 1000, "b")
    assert [queue.next(), queue.next()] == [0, 1000]


def test_shedding_takes_the_last_of_the_longest() -> None:
    queue = turns("a", "b", "b", "a", "b")
    assert (queue.longest, queue.waiting("b"), queue.waiting("x")) == (3, 3, 0)
    assert queue.shed() == 4
    assert queue.longest == 2
    assert rest(queue) == [0, 1, 3, 2]
    assert (len(queue), queue.longest) == (0, 0)


MOVES = st.lists(st.tuples(st.sampled_from(["add", "add", "next", "leave", "shed"]), st.integers(0, 99)), max_size=200)


@given(MOVES)
def test_it_is_what_a_plain_list_of_lines_would_be(moves: list[tuple[str, int]]) -> None:
    queue: Turns[int] = Turns()
    lines: list[tuple[str | None, list[int]]] = []  # in the order of their turns
    for number, (move, which) in enumerate(moves):
        lengths = [len(line) for _, line in lines]
        if move == "add":
            key = (None, "a", "b", "c", "d")[which % 5]
            queue.add(key, number)
            line = next((line for name, line in lines if name == key), None)
            if line is None:
                lines.append((key, [number]))
            else:
                line.append(number)
        elif not lines:
            continue
        elif move == "next":
            key, line = lines.pop(0)
            assert queue.next() == line.pop(0)
            lines.append((key, line))
        elif move == "leave":
            key, line = lines[which % len(lines)]
            queue.remove(key, line.pop(which % len(line)))
        else:
            lasts = {line[-1]: line for _, line in lines if len(line) == max(lengths)}
            lasts[queue.shed()].pop()
        lines = [(key, line) for key, line in lines if line]
        assert len(queue) == sum(len(line) for _, line in lines)
        assert queue.longest == max((len(line) for _, line in lines), default=0)
        assert all(queue.waiting(key) == len(line) for key, line in lines)
    assert Counter(rest(queue)) == Counter(number for _, line in lines for number in line)


class TestPace:
    def test_knows_nothing_before_anything_moved(self) -> None:
        pace = Pace()
        pace.begin(100.0)
        assert pace.seconds_for(10, 103.0, most=30.0) == 30.0

    def test_is_that_of_late(self) -> None:
        pace = Pace()
        pace.begin(100.0)
        for number in range(100):
            pace.move(100.0 + number)  # one a second
        for number in range(100):
            pace.move(200.0 + number / 10)  # ten a second
        assert pace.seconds_for(50, 210.0, most=30.0) == pytest.approx(5.0, rel=0.1)

    def test_gets_slower_while_nothing_moves(self) -> None:
        pace = Pace()
        pace.begin(100.0)
        pace.move(101.0)
        assert [pace.seconds_for(2, now, most=30.0) for now in (101.0, 105.0, 200.0)] == [2.0, 10.0, 30.0]

    def test_time_in_which_nobody_waited_does_not_count(self) -> None:
        pace = Pace()
        pace.begin(100.0)
        pace.move(101.0)
        pace.begin(1000.0)
        assert pace.seconds_for(1, 1001.0, most=30.0) == 30.0
        pace.move(1002.0)
        assert pace.seconds_for(1, 1002.0, most=30.0) == 2.0

    def test_a_queue_that_is_empty_for_a_moment_is_still_the_same(self) -> None:
        pace = Pace()
        pace.begin(100.0)
        pace.move(101.0)
        pace.begin(101.5)
        pace.move(102.0)
        assert pace.seconds_for(1, 102.0, most=30.0) == 1.0
