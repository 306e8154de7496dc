"""The guard `prompt_guard`: sizes, then what is denied, then what is allowed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.entering import asked, entered, refused, user

from trio_ai_proxy.errors import GuardBlocked
from trio_ai_proxy.guards.prompt_guard import PromptGuard
from trio_ai_proxy.settings import GuardSettings

if TYPE_CHECKING:
    from trio_ai_proxy.chat.request import ChatRequest, Operation

BASE = GuardSettings("g", "prompt_guard")
BLOCKED = ("content_blocked", "The request says something that this gateway does not let through.", "messages")


def guard(**values: Any) -> PromptGuard:
    return PromptGuard(replace(BASE, **values))


def passes(it: PromptGuard, request: ChatRequest) -> bool:
    """Whether `request` passes, as the very same object; anything but the one refusal is an error here."""
    try:
        assert entered(it, request) is request
    except GuardBlocked as error:
        if error.code != "content_blocked":
            raise
        return False
    return True


def test_what_is_denied_is_refused_and_nothing_says_which_rule_it_was() -> None:
    it = guard(deny=("hunter2", "password"))
    assert refused(it, asked(user("my password"))) == BLOCKED
    assert passes(it, asked(user("my pass word")))


def test_of_what_is_allowed_something_must_be_found() -> None:
    it = guard(allow=("weather", "(?i)rain"))
    assert passes(it, asked(user("Hello", "RAIN?")))
    assert refused(it, asked(user("Hello"))) == BLOCKED
    assert refused(it, asked([{"role": "user", "content": ""}])) == BLOCKED


def test_what_is_denied_goes_before_what_is_allowed() -> None:
    it = guard(allow=("weather",), deny=("bomb",))
    assert not passes(it, asked(user("weather bomb")))


IN_ALL_SHAPES: list[Any] = [
    [{"role": "user", "content": "a secret here"}],
    [{"role": "user", "content": [{"type": "text", "text": "a secret here"}]}],
    [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "secret"}],
        }
    ],
    [{"role": "user", "content": ["sec", "ret"]}],
    [{"role": "user", "content": [{"type": "text", "text": "a sec"}, {"type": "text", "text": "ret"}]}],
    [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "secret"}]}]}],
    [{"role": "User", "content": "secret"}],
    [{"role": "somebody", "content": "secret"}],
    [{"role": "user", "content": "x"}, {"role": "user", "content": "secret"}, {"role": "user", "content": "x"}],
    [{"role": "user", "content": None}, {"role": "user", "refusal": "secret"}],
]


@pytest.mark.parametrize("messages", IN_ALL_SHAPES)
def test_no_shape_of_a_message_hides_what_it_says(messages: Any) -> None:
    assert refused(guard(deny=("secret",)), asked(messages)) == BLOCKED


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("tool", {"role": "tool", "tool_call_id": "1", "content": "secret"}),
        ("tool", {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "secret"}]}),
        ("tool", {"role": "function", "name": "f", "content": "secret"}),
        ("system", {"role": "system", "content": "secret"}),
        ("system", {"role": "developer", "content": "secret"}),
        ("assistant", {"role": "assistant", "content": "secret"}),
        ("assistant", {"role": "assistant", "content": [{"type": "refusal", "refusal": "secret"}]}),
        ("assistant", {"role": "assistant", "reasoning_content": "secret"}),
        ("assistant", {"role": "assistant", "tool_calls": [{"id": "1", "function": {"arguments": '{"x": "secret"}'}}]}),
        ("assistant", {"role": "assistant", "tool_calls": [{"id": "1", "custom": {"name": "f", "input": "secret"}}]}),
        ("assistant", {"role": "assistant", "function_call": {"name": "f", "arguments": "secret"}}),
    ],
)
def test_only_the_chosen_roles_are_looked_at(role: str, message: dict[str, Any]) -> None:
    request = asked([message, *user("hello")])
    assert passes(guard(deny=("secret",)), request)
    assert refused(guard(deny=("secret",), roles=(role,)), request) == BLOCKED


def test_the_last_message_alone_can_be_looked_at() -> None:
    it = guard(deny=("secret",), last_only=True)
    said = [*user("secret", "hello"), {"role": "assistant", "content": "secret"}]
    assert passes(it, asked(said))
    assert not passes(it, asked(user("hello", "secret")))


def test_an_anchor_means_each_message_where_it_denies_and_the_whole_where_it_allows() -> None:
    assert not passes(guard(deny=("^drop",)), asked(user("hello", "drop it")))
    assert not passes(guard(deny=("hello\ndrop",)), asked(user("hello", "drop it")))
    assert passes(guard(allow=("^hello$",)), asked(user("hello")))
    assert not passes(guard(allow=("^hello$",)), asked(user("hello", "and a bomb")))


def test_sizes_have_codes_of_their_own() -> None:
    it = guard(max_characters=5, max_messages=2)
    assert passes(it, asked(user("abc", "de")))
    assert refused(it, asked(user("abc", "def"))) == (
        "prompt_too_long",
        "The request says 6 characters; 5 are allowed.",
        "messages",
    )
    assert refused(it, asked(user("a", "b", "c"))) == (
        "too_many_messages",
        "The request has 3 messages; 2 are allowed.",
        "messages",
    )
    other = [{"role": "system", "content": "long enough"}, *user("abc")]
    assert passes(it, asked(other))


@pytest.mark.parametrize(
    ("said", "operation", "field"),
    [
        ("a secret", "completions", "prompt"),
        (["a", "secret"], "completions", "prompt"),
        ("a secret", "embeddings", "input"),
        (["a", "secret"], "embeddings", "input"),
        ([{"type": "text", "text": "secret"}], "moderations", "input"),
    ],
)
def test_prompts_and_inputs_are_what_a_user_says(said: Any, operation: Operation, field: str) -> None:
    assert refused(guard(deny=("secret",)), asked(said, operation)) == (*BLOCKED[:2], field)
    assert passes(guard(deny=("secret",), roles=("system",)), asked(said, operation))
    assert passes(guard(deny=("other",)), asked(said, operation))


def test_what_shall_follow_a_completion_counts_too() -> None:
    assert not passes(guard(deny=("secret",)), asked("a", "completions", suffix="secret"))
    assert passes(guard(deny=("secret",)), asked("a", "completions", suffix=None))


@pytest.mark.parametrize(
    ("said", "operation"), [([1, 2], "completions"), ([[1, 2]], "completions"), ([1], "embeddings")]
)
def test_what_cannot_be_read_is_refused(said: Any, operation: Operation) -> None:
    code, message, _ = refused(guard(deny=("x",)), asked(said, operation))
    assert code == "unreadable_prompt"
    assert "token numbers" in message


def test_a_text_of_any_length_takes_time_in_proportion() -> None:
    """An expression that takes a backtracking engine longer than the universe has existed."""
    it = guard(deny=("(a*)*(a*)*b",))
    assert passes(it, asked(user("a" * 100_000)))


def test_half_a_surrogate_pair_hides_nothing() -> None:
    assert not passes(guard(deny=("secret",)), asked(user("\ud83d secret")))
    assert passes(guard(deny=("other",)), asked(user("\ud83d secret")))
