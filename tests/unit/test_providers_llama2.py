from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.chat.events import Ended, Event, Failed, Finished, Started, TextDelta, UsageReported
from trio_ai_proxy.chat.fields import CHAT_FIELDS, TEXT_FIELDS
from trio_ai_proxy.chat.grammar import EventGrammar
from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import ConfigError, InvalidRequest, UpstreamProtocolError
from trio_ai_proxy.providers.llama2 import Llama2Provider
from trio_ai_proxy.providers.llama2_request import FATES
from trio_ai_proxy.providers.ollama import OllamaProvider
from trio_ai_proxy.providers.openai import OpenAIProvider
from trio_ai_proxy.providers.table import build_provider
from trio_ai_proxy.settings import ProviderSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import UpstreamRequest

HI = [{"role": "user", "content": "Hi"}]
URL = "http://llama:8080/generate"


def provider(**settings: Any) -> Any:
    return build_provider(ProviderSettings(**{"name": "p", "kind": "llama2", "base_url": URL, **settings}))


def ask(fields: dict[str, Any], operation: Operation = "chat") -> ChatRequest:
    return ChatRequest(operation, "asked", False, False, fields)


def prepare(fields: dict[str, Any], operation: Operation = "chat", **settings: Any) -> UpstreamRequest:
    request: UpstreamRequest = provider(**settings).prepare(ask(fields, operation), model="real", stream=False)
    return request


def sent(fields: dict[str, Any], operation: Operation = "chat") -> dict[str, Any]:
    return json.loads(prepare(fields, operation).body)


def said(*turns: tuple[str, str]) -> str:
    return sent({"messages": [{"role": role, "content": text} for role, text in turns]})["inputs"]


def parameters(**fields: Any) -> dict[str, Any]:
    return sent({"messages": HI, **fields})["parameters"]


def refused(fields: dict[str, Any], operation: Operation = "chat") -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(fields, operation)
    return caught.value.param


class TestFormat:
    @pytest.mark.parametrize("settings", [{}, {"format": "raw"}])
    def test_raw_is_what_it_is_without_another(self, settings: dict[str, Any]) -> None:
        made = provider(**settings)
        assert isinstance(made, Llama2Provider)
        assert made.capabilities.never_streams
        assert prepare({"messages": HI}, **settings).url == URL

    def test_openai_is_openais_wire_at_the_address(self) -> None:
        made = provider(format="openai", base_url="http://llama:8080/v1")
        assert isinstance(made, OpenAIProvider)
        assert (made.kind, made.wire, made.capabilities.never_streams) == ("llama2", "openai", False)
        request = made.prepare(ask({"messages": HI}), model="real", stream=True)
        assert request.url == "http://llama:8080/v1/chat/completions"

    def test_ollama_is_ollamas_wire_at_the_address(self) -> None:
        made = provider(format="ollama", base_url="http://llama:11434")
        assert isinstance(made, OllamaProvider)
        assert (made.kind, made.wire, made.capabilities.never_streams) == ("llama2", "ollama", False)
        assert made.prepare(ask({"messages": HI}), model="real", stream=True).url == "http://llama:11434/api/chat"

    @pytest.mark.parametrize("name", [None, "raw", "openai", "ollama"])
    def test_every_one_needs_an_address(self, name: Any) -> None:
        with pytest.raises(ConfigError, match="base_url"):
            provider(format=name, base_url=None)


class TestPrompt:
    """The strings are those of Meta's reference implementation, token for token as text."""

    def test_of_one_question(self) -> None:
        assert said(("user", "Hi")) == "<s>[INST] Hi [/INST]"

    def test_has_the_system_message_within_the_first_instruction(self) -> None:
        assert said(("system", "Be brief."), ("user", "Hi")) == ("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]")

    def test_has_every_turn_and_not_the_users_alone(self) -> None:
        assert said(
            ("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")
        ) == ("<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST] d </s><s>[INST] e [/INST]")

    def test_gathers_system_messages_in_the_one_place_for_them(self) -> None:
        assert said(("system", "A"), ("user", "x"), ("developer", "B")) == (
            "<s>[INST] <<SYS>>\nA\n\nB\n<</SYS>>\n\nx [/INST]"
        )

    def test_does_not_take_the_first_message_for_the_systems(self) -> None:
        assert said(("user", "a"), ("assistant", "b"), ("user", "c")) == "<s>[INST] a [/INST] b </s><s>[INST] c [/INST]"

    def test_joins_what_one_side_said_in_a_row(self) -> None:
        assert said(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")) == (
            "<s>[INST] a\n\nb [/INST] c\n\nd </s><s>[INST] e [/INST]"
        )

    def test_stays_open_where_the_assistant_has_begun(self) -> None:
        assert said(("user", "a"), ("assistant", "Well,")) == "<s>[INST] a [/INST] Well,"

    def test_may_begin_with_the_assistant(self) -> None:
        assert said(("assistant", "Hello!"), ("user", "a")) == "<s>[INST]  [/INST] Hello! </s><s>[INST] a [/INST]"

    @pytest.mark.parametrize("mark", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
    def test_cannot_be_taken_over_from_within_a_message(self, mark: str) -> None:
        assert refused({"messages": [*HI, {"role": "user", "content": f"a {mark} b"}]}) == "messages.1.content"

    def test_of_a_completion_is_the_clients_own(self) -> None:
        assert sent({"prompt": " [INST] Once "}, "completions")["inputs"] == " [INST] Once "

    @pytest.mark.parametrize(
        ("message", "place"),
        [
            ({"role": "tool", "tool_call_id": "c", "content": "x"}, "messages.0"),
            (
                {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
                "messages.0.tool_calls",
            ),
            (
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://h/a.png"}}]},
                "messages.0.content.0",
            ),
        ],
    )
    def test_of_what_it_cannot_hold_is_refused(self, message: dict[str, Any], place: str) -> None:
        assert refused({"messages": [message]}) == place


class TestParameters:
    def test_are_not_made_up(self) -> None:
        assert parameters() == {"return_full_text": False}

    def test_are_in_the_servers_words(self) -> None:
        assert parameters(
            max_tokens=5, temperature=0.5, top_p=0.9, stop=["a"], seed=7, frequency_penalty=0.5, top_k=40
        ) == {
            "max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9, "stop": ["a"], "seed": 7, "frequency_penalty": 0.5,
            "top_k": 40, "do_sample": True, "return_full_text": False,
        }  # fmt: skip

    def test_newer_limit_is_the_same(self) -> None:
        assert parameters(max_completion_tokens=6)["max_new_tokens"] == 6

    def test_no_temperature_is_no_sampling(self) -> None:
        assert parameters(temperature=0, top_p=0.5) == {"do_sample": False, "return_full_text": False}

    def test_everything_probable_is_no_limit(self) -> None:
        assert "top_p" not in parameters(top_p=1)

    def test_of_the_servers_own_win(self) -> None:
        assert parameters(temperature=0.5, do_sample=False, details=True)["do_sample"] is False
        assert "return_full_text" not in parameters(return_full_text=None)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("tools", [{"type": "function", "function": {"name": "f"}}]), ("response_format", {"type": "json_object"}),
            ("presence_penalty", 1), ("n", 2), ("logprobs", True), ("x", 1),
        ],
    )  # fmt: skip
    def test_that_have_no_word_are_refused(self, field: str, value: Any) -> None:
        assert refused({"messages": HI, field: value}) == field

    def test_that_do_not_matter_are_left_out_and_named(self) -> None:
        assert prepare({"messages": HI, "user": "u", "reasoning_effort": "low"}).dropped == ("user", "reasoning_effort")

    def test_every_one_with_a_fate_is_openais_or_passes(self) -> None:
        known = {*CHAT_FIELDS, *TEXT_FIELDS}
        assert all(name in known for name, fate in FATES.items() if fate != "passed")


def read(body: Any, messages: Any = HI) -> list[Event]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    events: list[Event] = provider().read_answer(ask({"messages": messages}), raw)
    return events


class TestAnswer:
    TOLD: ClassVar[list[Event]] = [Started("", ""), TextDelta("Hello."), Finished("stop"), Ended()]

    @pytest.mark.parametrize(
        "body",
        [
            {"generated_text": " Hello.\n"},
            [{"generated_text": "Hello."}],
            {"data": [{"generated_text": "Hello."}]},
            {"data": {"generated_text": "Hello."}},
        ],
    )
    def test_is_found_in_every_shape(self, body: Any) -> None:
        assert read(body) == self.TOLD

    @pytest.mark.parametrize(
        "echo", ["[INST]\nHi\n[/INST]\n\nHello.", "<s>[INST] Hi [/INST] Hello.", "<s> [INST] Hi [/INST]Hello."]
    )
    def test_is_without_the_prompt_where_that_is_said_again(self, echo: str) -> None:
        assert read({"data": [{"generated_text": echo}]}) == self.TOLD

    def test_is_without_all_of_a_longer_prompt_and_keeps_its_own_marks(self) -> None:
        talk = [*HI, {"role": "assistant", "content": "a"}, *HI]
        echo = "[INST] Hi [/INST] a </s><s>[INST] Hi [/INST] Say [/INST] yourself."
        assert read({"generated_text": echo}, talk)[1] == TextDelta("Say [/INST] yourself.")
        assert read({"generated_text": "Say [/INST] yourself."}, talk)[1] == TextDelta("Say [/INST] yourself.")

    def test_of_a_completion_is_as_it_is(self) -> None:
        events = provider().read_answer(ask({"prompt": "x"}, "completions"), b'{"generated_text":" [INST] y "}')
        assert events[1] == TextDelta(" [INST] y ")

    @pytest.mark.parametrize(
        ("counts", "limit", "told"),
        [
            ({"details": {"generated_tokens": 5}}, 5, "length"),
            ({"details": {"generated_tokens": 4}}, 5, "stop"),
            ({"details": {"generated_tokens": 5}}, None, "stop"),
            ({"usage": {"prompt_tokens": 1, "completion_tokens": 5}}, 5, "length"),
            ({}, 5, "stop"),
        ],
    )
    def test_was_cut_where_as_many_tokens_were_made_as_were_allowed(self, counts: Any, limit: Any, told: str) -> None:
        body = json.dumps({"generated_text": "x", **counts}).encode()
        events = provider().read_answer(ask({"messages": HI, "max_tokens": limit}), body)
        assert Finished(told) in events

    @pytest.mark.parametrize(
        ("given", "told"),
        [("eos_token", "stop"), ("stop_sequence", "stop"), ("length", "length"), ("other", "other")],
    )
    def test_has_the_servers_reason_in_openais_word(self, given: str, told: str) -> None:
        body = {"generated_text": "x", "details": {"finish_reason": given, "generated_tokens": 1}}
        assert Finished(told) in read(body)

    def test_has_the_usage_that_kong_looks_for(self) -> None:
        body = {"data": [{"generated_text": "x"}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
        assert UsageReported(TokenUsage(3, 4, 7)) in read(body)
        assert not [event for event in read({**body, "usage": {}}) if isinstance(event, UsageReported)]

    def test_may_be_empty(self) -> None:
        assert read({"generated_text": " "}) == [Started("", ""), Finished("stop"), Ended()]

    def test_with_an_error_in_it_has_failed(self) -> None:
        [failed] = read({"error": "CUDA out of memory", "error_type": "generation"})
        assert isinstance(failed, Failed)
        assert (failed.error.message, failed.error.type) == ("CUDA out of memory", "generation")

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"{", b"null", b"[]", b"{}", b'"x"', b'{"data":[]}', b'{"data":[{"generated_text":"a"},{"generated_text":"b"}]}',
            b'{"generated_text":null}', b"<html>", b"[" * 100_000,
        ],
    )  # fmt: skip
    def test_that_is_none_is_a_fault_of_the_provider(self, body: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            read(body)


def test_error_keeps_its_words_and_not_our_key() -> None:
    made = provider(api_key=Secret("abcdefgh", "a test"))
    error = made.read_error(422, {}, b'{"error":"Input validation error: abcdefgh","error_type":"validation"}')
    assert (error.message, error.type, error.upstream_status) == ("Input validation error: ***", "validation", 422)


def test_embeddings_are_not_served() -> None:
    assert refused({"input": "x"}, "embeddings") == "model"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "generated_text", "details", "finish_reason", "usage", "prompt_tokens", "error", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(_JSON)
def test_whatever_stands_in_the_fields_is_read_or_is_a_fault_of_the_provider(body: Any) -> None:
    try:
        events = read(body)
    except UpstreamProtocolError:
        return
    grammar = EventGrammar()
    for event in events:
        grammar.feed(event)
    grammar.close()
