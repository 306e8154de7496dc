"""What a request needs of a target, and what a target can do."""

from __future__ import annotations

from typing import Any

import pytest

from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.providers.base import Capabilities
from trio_ai_proxy.routing.caller import NOBODY, Caller
from trio_ai_proxy.routing.facts import Facts, conversation_of, facts_of, target_facts
from trio_ai_proxy.settings import CapabilitySettings, MatchSettings, ModelSettings, TargetSettings

PLAIN = ModelSettings("m", targets=(TargetSettings("a", "m"),))
USER = {"role": "user", "content": "Hi"}


def facts(
    fields: dict[str, Any],
    model: ModelSettings = PLAIN,
    caller: Caller = NOBODY,
    *,
    operation: Operation = "chat",
    key: str | None = None,
    tokens: int = 0,
) -> Facts:
    request = ChatRequest(operation, "m", True, True, fields)
    return facts_of(request, model, caller, key=key, tokens=tokens, similarities=(0.5,))


def test_a_plain_request_needs_nothing() -> None:
    assert facts({"messages": [USER]}) == Facts(similarities=(0.5,))


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"functions": [{"name": "f"}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
        {"messages": [USER, {"role": "tool", "content": "4"}]},
    ],
)
def test_tools_are_seen_in_the_request_and_in_what_was_said_before(fields: dict[str, Any]) -> None:
    assert facts(fields).tools
    assert not facts({"tools": [], "functions": None, "messages": [USER, None, 3]}).tools


@pytest.mark.parametrize("type", ["image_url", "input_image", "image"])
def test_an_image_is_seen_in_any_message(type: str) -> None:
    pictured = {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": type}]}
    assert facts({"messages": [pictured, USER]}).images
    assert not facts({"messages": [{"role": "user", "content": [{"type": "text"}, "x"]}, USER]}).images
    assert not facts({"messages": "Hi"}).images


def test_a_schema_is_not_the_same_as_json() -> None:
    assert facts({"response_format": {"type": "json_schema"}}).json_schema
    assert not facts({"response_format": {"type": "json_object"}}).json_schema
    assert not facts({"response_format": "json_schema"}).json_schema


@pytest.mark.parametrize(
    ("fields", "tokens", "needed"),
    [
        ({}, 1000, 1000),
        ({"max_tokens": 500}, 1000, 1500),
        ({"max_tokens": 500, "max_completion_tokens": 700}, 1000, 1700),
        ({"max_tokens": "many"}, 1000, 1000),
        ({"max_tokens": -1}, 1000, 1000),
        ({"max_tokens": 500}, 0, 0),
    ],
)
def test_the_answer_needs_room_as_well(fields: dict[str, Any], tokens: int, needed: int) -> None:
    assert facts(fields, tokens=tokens).tokens == needed


def test_only_headers_that_a_rule_asks_for_are_kept() -> None:
    match = MatchSettings(headers={"X-Tier": "gold", "x-other": "y"})
    model = ModelSettings("m", targets=(TargetSettings("a", "m", match=match), TargetSettings("b", "m")))
    caller = Caller(headers={b"x-tier": b" gold ", b"authorization": b"Bearer secret"})
    assert facts({}, model, caller).headers == {"x-tier": "gold"}


class TestHashValue:
    def value(self, hash_on: str, fields: dict[str, Any] | None = None, key: str | None = None) -> str | None:
        model = ModelSettings("m", targets=PLAIN.targets, balance="consistent_hash", hash_on=hash_on)
        return facts(fields or {}, model, Caller(headers={b"x-session": b"s-1"}), key=key).hash_value

    def test_it_is_the_key_the_header_or_the_conversation(self) -> None:
        assert self.value("key", key="team-a") == "team-a"
        assert self.value("X-Session") == "s-1"
        assert self.value("prefix", {"messages": [USER]}) == conversation_of({"messages": [USER]})

    def test_there_may_be_none(self) -> None:
        assert self.value("key") is None
        assert self.value("x-nothing") is None
        assert self.value("prefix") is None

    def test_other_balances_have_none(self) -> None:
        assert facts({"messages": [USER]}, key="team-a").hash_value is None


SYSTEM = {"role": "system", "content": "Be brief."}


class TestConversation:
    def test_all_turns_of_a_conversation_share_it(self) -> None:
        first = conversation_of({"messages": [SYSTEM, USER]})
        turns = [SYSTEM, USER, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "More"}]
        assert first is not None
        assert conversation_of({"messages": turns, "temperature": 1}) == first

    def test_another_beginning_is_another_conversation(self) -> None:
        other = {"role": "user", "content": "Bye"}
        values = {
            conversation_of({"messages": [SYSTEM, USER]}),
            conversation_of({"messages": [USER]}),
            conversation_of({"messages": [SYSTEM, other]}),
            conversation_of({"messages": [SYSTEM, USER], "tools": [{"type": "function"}]}),
            conversation_of({"prompt": "Hi"}),
        }
        assert len(values) == 5

    def test_a_prompt_that_grows_stays_the_same(self) -> None:
        assert conversation_of({"prompt": "x" * 256 + "a"}) == conversation_of({"prompt": "x" * 256 + "b" * 99})

    @pytest.mark.parametrize(
        "fields", [{}, {"messages": []}, {"prompt": ["a"]}, {"messages": [{"role": "user", "content": "\ud800"}]}]
    )
    def test_where_there_is_no_text_there_is_none(self, fields: dict[str, Any]) -> None:
        assert conversation_of(fields) is None


class TestTarget:
    def test_it_does_what_its_provider_does(self) -> None:
        capabilities = Capabilities(operations=frozenset({"chat"}), images=False, prefill=True, context_window=8192)
        found = target_facts(TargetSettings("a", "m"), capabilities)
        assert (set(found.operations), set(found.lacks), set(found.ruled_out)) == ({"chat"}, {"images"}, set())
        assert (found.prefill, found.max_context) == (True, 8192)

    def test_its_own_block_says_otherwise(self) -> None:
        own = CapabilitySettings(tools=False, images=True, prefill=False)
        target = TargetSettings("a", "m", max_context=1000, capabilities=own)
        found = target_facts(target, Capabilities(images=False, json_schema=False, prefill=True, context_window=8192))
        assert (set(found.lacks), set(found.ruled_out)) == ({"tools", "json_schema"}, {"tools"})
        assert (found.prefill, found.max_context) == (False, 1000)
