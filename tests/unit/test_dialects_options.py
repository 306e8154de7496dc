from __future__ import annotations

from typing import Any

import pytest

from trio_ai_proxy.dialects.table import with_options


@pytest.mark.parametrize(
    ("fields", "options", "filled"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 2}, {"a": 1}),
        ({"a": None}, {"a": 2}, {"a": 2}),
        ({"a": 0, "b": False, "c": ""}, {"a": 2, "b": True, "c": "x"}, {"a": 0, "b": False, "c": ""}),
        ({"max_completion_tokens": 5}, {"max_tokens": 9}, {"max_completion_tokens": 5}),
        ({"max_tokens": 5}, {"max_completion_tokens": 9}, {"max_tokens": 5}),
        ({"max_completion_tokens": None}, {"max_tokens": 9}, {"max_completion_tokens": None, "max_tokens": 9}),
        ({}, {"max_tokens": 9}, {"max_tokens": 9}),
    ],
)
def test_options_fill_what_the_request_leaves_out(
    fields: dict[str, Any], options: dict[str, Any], filled: dict[str, Any]
) -> None:
    assert with_options(fields, options) == filled


@pytest.mark.parametrize(
    ("fields", "options", "filled"),
    [
        ({"a": 1, "b": 1}, {"a": 2}, {"a": 2, "b": 1}),
        ({"max_completion_tokens": 5}, {"max_tokens": 9}, {"max_tokens": 9}),
        ({"max_tokens": 5}, {"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
    ],
)
def test_forced_options_win(fields: dict[str, Any], options: dict[str, Any], filled: dict[str, Any]) -> None:
    assert with_options(fields, options, force=True) == filled


@pytest.mark.parametrize("name", ["model", "messages", "prompt", "stream", "stream_options"])
def test_no_option_makes_it_another_request(name: str) -> None:
    assert with_options({}, {name: "x"}, force=True) == {}


def test_the_request_stays_as_it_was() -> None:
    fields = {"max_completion_tokens": 5}
    with_options(fields, {"max_tokens": 9, "a": 1}, force=True)
    assert fields == {"max_completion_tokens": 5}
