"""What providers write where their documentation promises something else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.event_strategies import JSON

from trio_ai_proxy.providers.loose import a_dict, a_list, a_text, count, json_text, read_leniently, read_object, text_of

DEEP = b'{"a":' * 100_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"), ("", ""), (None, ""), (1, ""), ({}, ""), ([], ""), (["a", "b"], "ab"),
        ([{"type": "text", "text": "a"}, {"text": None}, {"image": 1}, 3, "b", None], "ab"),
    ],
)  # fmt: skip
def test_content_as_text(value: Any, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3), (3.9, 3), (0, 0), (-1, 0), (True, 0), (None, 0), ("3", 0), (float("nan"), 0), (float("inf"), 0),
        (2**70, 0), (-(2**70), 0), (2**53, 2**53),
    ],
)  # fmt: skip
def test_count(value: Any, number: int) -> None:
    assert count(value) == number


def test_value_as_json() -> None:
    assert json_text({"a": ["é", None, 2**70]}) == '{"a":["é",null,1180591620717411303424]}'
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert json_text(deep) == ""
    while deep:  # taken apart by hand: the interpreter's own way of dropping it goes as deep as it is
        deep = deep.pop()


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b' {"a":"\\ud83d"} ', {"a": "\ufffd"}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b'{"a":{}}', {"a": {}}),
        (b"[1]", None), (b"1", None), (b"", None), (b"{", None), (b"null", None), (DEEP, None),
    ],
)  # fmt: skip
def test_object(data: bytes, value: Any) -> None:
    assert read_object(data) == value


def test_numbers_that_are_none_are_read() -> None:
    value = read_object(b'{"a":NaN,"b":-Infinity,"c":1}')
    assert value is not None
    assert value["c"] == 1
    assert value["a"] != value["a"]


@given(JSON)
def test_lenient_reading_is_the_same_as_strict_for_what_is_sound(value: Any) -> None:
    assert read_leniently(json_text(value).encode()) == value


@given(st.binary(max_size=30))
def test_no_bytes_are_too_odd_for_an_object(data: bytes) -> None:
    assert isinstance(read_object(data), dict | None)


def test_values_of_one_type_or_nothing() -> None:
    odd: list[Any] = [None, 1, "a", [1], {"a": 1}]
    assert [a_dict(value) for value in odd] == [{}, {}, {}, {}, {"a": 1}]
    assert [a_list(value) for value in odd] == [[], [], [], [1], []]
    assert [a_text(value) for value in odd] == ["", "", "a", "", ""]
