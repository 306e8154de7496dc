"""No field of a request is lost in silence."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from trio_ai_proxy.chat.fields import (
    CHAT_FIELDS,
    EMBEDDING_FIELDS,
    FIELDS,
    OURS,
    TEXT_FIELDS,
    settle_fields,
    unsupported,
)
from trio_ai_proxy.chat.request import ChatRequest, Operation, Unsupported
from trio_ai_proxy.errors import InvalidRequest

FATES: Any = {"messages": "translated", "temperature": "passed", "stop": "emulated", "seed": "unsupported"}


def settle(fields: dict[str, Any], rule: Unsupported = "auto", operation: Operation = "chat") -> tuple[str, ...]:
    request = ChatRequest(operation, "m", stream=False, include_usage=False, fields=fields, unsupported=rule)
    return settle_fields(request, FATES, provider="test")


def refused(fields: dict[str, Any], rule: Unsupported = "auto", operation: Operation = "chat") -> str | None:
    with pytest.raises(InvalidRequest, match=r"The provider of this model \(test\) does not support") as caught:
        settle(fields, rule, operation)
    assert caught.value.code == "unsupported_parameter"
    return caught.value.param


def test_what_the_provider_has_a_word_for_and_what_is_ours_is_neither_dropped_nor_refused() -> None:
    fields = {"model": "m", "stream": True, "stream_options": {}, "messages": [], "temperature": 1, "stop": "a"}
    for rule in get_args(Unsupported):
        assert settle(fields, rule) == ()


def test_what_does_not_change_the_answer_is_dropped_and_named() -> None:
    assert settle({"seed": 1, "user": "u", "store": True}) == ("seed", "user", "store")


@pytest.mark.parametrize("name", ["top_p", "tools", "response_format", "logit_bias", "max_tokens", "audio", "top_k"])
def test_what_changes_the_answer_is_refused_by_name(name: str) -> None:
    assert refused({"user": "u", name: {"x": 1}}) == name


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1}, {"n": 1.0}, {"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"logprobs": False}, {"tools": []},
        {"tool_choice": "none"}, {"parallel_tool_calls": True}, {"response_format": {"type": "text"}},
        {"modalities": ["text"]}, {"logit_bias": {}}, {"top_p": None}, {"whatever": None},
    ],
)  # fmt: skip
def test_what_says_the_same_as_nothing_is_nothing(fields: dict[str, Any]) -> None:
    for rule in get_args(Unsupported):
        assert settle(fields, rule) == ()


@pytest.mark.parametrize("fields", [{"n": True}, {"n": 2}, {"logprobs": 0}, {"frequency_penalty": False}])
def test_a_value_of_another_type_does_not_pass_for_a_neutral_one(fields: dict[str, Any]) -> None:
    assert refused(fields) in fields


def test_drop_leaves_all_out_and_error_refuses_all() -> None:
    assert settle({"seed": 1, "tools": [1], "whatever": 1}, "drop") == ("seed", "tools", "whatever")
    assert refused({"user": "u"}, "error") == "user"


def test_each_operation_has_fields_of_its_own() -> None:
    assert refused({"best_of": 2}, operation="completions") == "best_of"
    assert settle({"best_of": 1, "echo": False, "suffix": ""}, operation="completions") == ()
    assert refused({"logprobs": 0}, operation="completions") == "logprobs"
    assert refused({"dimensions": 3}, operation="embeddings") == "dimensions"
    assert set(FIELDS) == set(get_args(Operation))
    assert not OURS & (CHAT_FIELDS.keys() | TEXT_FIELDS.keys() | EMBEDDING_FIELDS.keys())


def test_a_part_is_refused_with_its_place_and_the_reason() -> None:
    error = unsupported("messages.0.content.1", "test", "it takes bytes alone")
    assert error.param == "messages.0.content.1"
    assert error.message.endswith('"messages.0.content.1": it takes bytes alone.')
