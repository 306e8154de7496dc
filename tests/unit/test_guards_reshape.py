"""The guard `response_transformer` without a model: headers and fields of an answer, and of each event of a stream."""

from __future__ import annotations

from typing import Any

import pytest

from trio_ai_proxy.guards.reshape import Reshape, parse_path
from trio_ai_proxy.settings import HeaderChanges, JSONChanges


def reshaped(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return Reshape(None, JSONChanges(**changes)).document(document)


def chunk(**delta: Any) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": delta}, {"index": 1, "delta": dict(delta)}]}


@pytest.mark.parametrize(
    ("path", "parsed"),
    [
        ("model", ("model",)),
        ("usage.prompt_tokens", ("usage", "prompt_tokens")),
        ("choices.0.delta.content", ("choices", "0", "delta", "content")),
        ("choices[0].delta", ("choices", "0", "delta")),
        ("choices[*].delta", ("choices", "*", "delta")),
        ("choices.*.delta", ("choices", "*", "delta")),
        ("a[0][*]", ("a", "0", "*")),
    ],
)
def test_a_path_is_names_and_numbers(path: str, parsed: tuple[str, ...]) -> None:
    assert parse_path(path) == parsed


@pytest.mark.parametrize("path", ["", ".", "a..b", "a.", "[0]x[", "a[x]", "a[-1]", "[0]"])
def test_what_is_no_path_says_so(path: str) -> None:
    with pytest.raises(ValueError, match="is no path of a field"):
        parse_path(path)


def test_fields_are_removed_also_in_every_element_of_an_array() -> None:
    assert reshaped(chunk(content="a", x=1), remove=("id", "choices[*].delta.x", "nope.x", "id.y")) == {
        "choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "a"}}]
    }
    assert reshaped({"a": [1, 2, 3]}, remove=("a[0]", "a[7]")) == {"a": [2, 3]}
    assert reshaped({"a": [1, 2, 3], "b": {"x": 1}}, remove=("a[*]", "b.*")) == {"a": [], "b": {}}


def test_a_renamed_field_keeps_its_place_and_takes_that_of_its_namesake() -> None:
    document = reshaped({"a": 1, "b": 2, "c": 3}, rename={"a": "c", "x": "b", "b": "b"})
    assert list(document.items()) == [("c", 1), ("b", 2)]
    assert reshaped(chunk(reasoning_content="t"), rename={"choices[*].delta.reasoning_content": "thinking"}) == chunk(
        thinking="t"
    )
    assert reshaped({"a": [1]}, rename={"a[0]": "b"}) == {"a": [1]}


def test_only_what_is_there_is_replaced_and_only_what_is_not_is_added() -> None:
    document = {"model": "x", "n": None, "list": [1, 2]}
    assert reshaped(
        document, replace={"model": "y", "other": 1, "list[1]": 5}, add={"model": 1, "n": 1, "new": {"a": [1]}}
    ) == {
        "model": "y",
        "n": None,
        "list": [1, 5],
        "new": {"a": [1]},
    }


def test_a_path_that_leads_nowhere_changes_nothing() -> None:
    """A whole answer has `message` where a chunk has `delta`."""
    changes: dict[str, Any] = {name: {"choices[*].delta.x": 1} for name in ("replace", "add", "append")}
    answer = {"choices": [{"message": {"content": "a"}}], "usage": None}
    assert reshaped(answer, **changes, remove=("usage.x",), rename={"choices.7.a": "b"}) == {
        "choices": [{"message": {"content": "a"}}],
        "usage": None,
    }


def test_appending_makes_a_list_of_what_is_none() -> None:
    document = reshaped({"a": [1], "b": "x", "d": {"e": 1}}, append={"a": 2, "b": "y", "c": "z", "d": 3, "a[0]": 9})
    assert document == {"a": [[1, 9], 2], "b": ["x", "y"], "c": ["z"], "d": [{"e": 1}, 3]}


def test_removing_goes_before_renaming_replacing_adding_and_appending() -> None:
    document = reshaped(
        {"a": 1, "b": 2},
        remove=("a",),
        rename={"b": "a"},
        replace={"a": 3},
        add={"b": 4},
        append={"a": 5},
    )
    assert document == {"a": [3, 5], "b": 4}


def test_no_answer_changes_the_values_for_the_next() -> None:
    it = Reshape(None, JSONChanges(add={"tags": ["x"]}, append={"tags": "y"}))
    first = it.document({})
    first["tags"].append("mine")
    assert it.document({}) == {"tags": ["x", "y"]}


HEADERS = [(b"content-type", b"text/event-stream"), (b"x-a", b"1"), (b"vary", b"origin"), (b"x-a", b"2")]


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        (HeaderChanges(), HEADERS),
        (HeaderChanges(remove=("X-A", "x-none")), [HEADERS[0], HEADERS[2]]),
        (HeaderChanges(rename={"X-A": "X-B"}), [HEADERS[0], (b"x-b", b"1"), HEADERS[2], (b"x-b", b"2")]),
        (HeaderChanges(replace={"X-A": "3", "x-none": "4"}), [HEADERS[0], (b"x-a", b"3"), HEADERS[2]]),
        (HeaderChanges(add={"Vary": "x", "x-new": "4"}), [*HEADERS, (b"x-new", b"4")]),
        (HeaderChanges(append={"Vary": "accept", "x-new": "4"}), [*HEADERS, (b"vary", b"accept"), (b"x-new", b"4")]),
        (
            HeaderChanges(
                remove=("x-a",), rename={"vary": "x-a"}, replace={"x-a": "5"}, add={"x-a": "6"}, append={"x-a": "7"}
            ),
            [HEADERS[0], (b"x-a", b"5"), (b"x-a", b"7")],
        ),
    ],
)
def test_headers_are_changed_whatever_their_case(changes: HeaderChanges, headers: list[tuple[bytes, bytes]]) -> None:
    before = list(HEADERS)
    assert Reshape(changes, None).headers(HEADERS) == headers
    assert before == HEADERS


def test_what_is_not_to_be_changed_stays() -> None:
    assert Reshape(None, None).headers(HEADERS) == HEADERS
    assert Reshape(HeaderChanges(), None).document({"a": 1}) == {"a": 1}
