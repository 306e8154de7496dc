from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.guards.heard import texts_in, with_texts
from trio_ai_proxy.guards.words import WordsInNumbers, messages_in

ROLES = ("system", "user", "assistant", "tool")

TEXT = st.text(max_size=4)
CONTENT = st.recursive(
    TEXT | st.none() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "refusal", "thinking", "content", "output", "other"]), inner)
    ),
    max_leaves=6,
)
CALL = st.dictionaries(
    st.sampled_from(["id", "function", "custom"]),
    TEXT | st.dictionaries(st.sampled_from(["name", "arguments", "input"]), CONTENT),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from([*ROLES, "developer", "function", "stranger"])},
    optional={
        "content": CONTENT,
        "refusal": TEXT,
        "reasoning_content": TEXT,
        "tool_calls": st.lists(CALL, max_size=2) | TEXT,
        "function_call": st.dictionaries(st.sampled_from(["name", "arguments"]), TEXT),
    },
)


def chat(*messages: dict[str, Any]) -> ChatRequest:
    return ChatRequest("chat", "m", stream=False, include_usage=False, fields={"messages": list(messages)})


def completion(**fields: Any) -> ChatRequest:
    return ChatRequest("completions", "m", stream=False, include_usage=False, fields=fields)


@given(st.lists(MESSAGE, max_size=4))
def test_texts_with_a_place_are_the_words_that_are_read(messages: list[dict[str, Any]]) -> None:
    request = chat(*messages)
    read = [(message.role, part) for message in messages_in(request) for part in message.parts]
    assert [(one.role, one.text) for one in texts_in(request, ROLES)] == read


@given(st.lists(MESSAGE, max_size=4))
def test_each_text_can_be_replaced_where_it_stands_and_the_request_that_came_is_left_alone(
    messages: list[dict[str, Any]],
) -> None:
    request = chat(*messages)
    before = copy.deepcopy(request.fields)
    heard = texts_in(request, ROLES)
    new = [f"<{one.text}>" for one in heard]
    changed = with_texts(request, heard, new)
    assert [one.text for one in texts_in(changed, ROLES)] == new
    assert [one.path for one in texts_in(changed, ROLES)] == [one.path for one in heard]
    assert request.fields == before
    assert with_texts(changed, texts_in(changed, ROLES), [one.text for one in heard]) == request


def test_request_in_which_nothing_changes_is_the_very_same() -> None:
    request = chat({"role": "user", "content": "Hi"})
    assert with_texts(request, texts_in(request, ROLES), ["Hi"]) is request


@pytest.mark.parametrize(
    ("last_only", "expected"), [(False, ["One", "Three", "and four", "Five"]), (True, ["Five"])]
)  # fmt: skip
def test_only_those_roles_and_only_the_last_of_their_messages(last_only: bool, expected: list[str]) -> None:
    request = chat(
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": [{"type": "text", "text": "Three"}, {"type": "text", "text": "and four"}]},
        {"role": "stranger", "content": "Five"},
        {"role": "system", "content": "Six"},
    )
    assert [one.text for one in texts_in(request, ("user",), last_only=last_only)] == expected


def test_prompts_and_inputs_are_the_users() -> None:
    both = completion(prompt=["a", "b"], suffix="c")
    assert [(one.text, one.path) for one in texts_in(both, ("user",))] == [
        ("a", ("prompt", 0)),
        ("b", ("prompt", 1)),
        ("c", ("suffix",)),
    ]
    assert texts_in(both, ("system",)) == []
    embedding = ChatRequest("embeddings", "m", stream=False, include_usage=False, fields={"input": "x"})
    assert with_texts(embedding, texts_in(embedding, ("user",)), ["y"]).fields == {"input": "y"}


@pytest.mark.parametrize("prompt", [[1, 2], [[1], [2]], ["a", [3]]])
def test_tokens_are_no_words(prompt: Any) -> None:
    with pytest.raises(WordsInNumbers):
        texts_in(completion(prompt=prompt), ("user",))
