from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.provider_streams import asked, provider

from trio_ai_proxy.chat.fields import FIELDS, Fate
from trio_ai_proxy.errors import ConfigError, InvalidRequest
from trio_ai_proxy.providers.mistral import MistralProvider
from trio_ai_proxy.providers.mistral_request import (
    EMBEDDING_FATES,
    FATES,
    FIM_FATES,
    MODERATION_FATES,
    TEXT_FATES,
    call_id,
)
from trio_ai_proxy.providers.openai import OpenAIProvider
from trio_ai_proxy.providers.table import KINDS, class_of
from trio_ai_proxy.settings import ProviderSettings

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import UpstreamRequest

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}, "strict": True},
}


def prepare(operation: Any = "chat", *, stream: bool = False, settings: Any = None, **fields: Any) -> UpstreamRequest:
    request = asked(operation, **fields)
    return provider("mistral", **(settings or {})).prepare(request, model="mistral-large-latest", stream=stream)


def sent(operation: Any = "chat", **manner: Any) -> dict[str, Any]:
    return json.loads(prepare(operation, **manner).body)


def messages(*given: dict[str, Any]) -> list[dict[str, Any]]:
    return sent(messages=list(given))["messages"]


class TestAddressAndHead:
    @pytest.mark.parametrize(
        ("operation", "fields", "path"),
        [("chat", {}, "/chat/completions"), ("completions", {}, "/chat/completions"),
         ("completions", {"suffix": "}"}, "/fim/completions"), ("embeddings", {}, "/embeddings"),
         ("moderations", {}, "/moderations")],
    )  # fmt: skip
    def test_follow_the_operation(self, operation: Any, fields: Any, path: str) -> None:
        assert prepare(operation, **fields).url == f"https://api.mistral.ai/v1{path}"
        assert prepare(operation, settings={"base_url": "http://h/v1/"}, **fields).url == f"http://h/v1{path}"

    def test_carry_the_key(self) -> None:
        assert dict(prepare(stream=True).headers)[b"authorization"] == b"Bearer sk-1234567890"


class TestFormat:
    def settings(self, **given: Any) -> ProviderSettings:
        return ProviderSettings(**{"name": "m", "kind": "mistral", **given})

    def test_none_is_mistrals_own_service(self) -> None:
        assert isinstance(provider("mistral"), MistralProvider)

    def test_openai_is_the_plain_wire_at_an_address_of_ones_own(self) -> None:
        made = provider("mistral", format="openai", base_url="http://127.0.0.1:8001/v1")
        assert isinstance(made, OpenAIProvider)
        assert made.wire == "openai"
        assert (made.capabilities.bills_after_abort, made.capabilities.prefill) == (False, False)
        assert made.prepare(asked(), model="m", stream=False).url == "http://127.0.0.1:8001/v1/chat/completions"

    def test_openai_without_an_address_is_mistrals_own_service(self) -> None:
        made = provider("mistral", format="openai")
        assert isinstance(made, MistralProvider)
        assert made.capabilities == KINDS["mistral"].capabilities

    def test_ollama_is_spoken_by_the_class_that_speaks_it(self) -> None:
        settings = self.settings(format="ollama", base_url="http://127.0.0.1:11434")
        assert class_of(settings, KINDS["mistral"]) == class_of(self.settings(), KINDS["ollama"])

    def test_ollama_needs_an_address(self) -> None:
        with pytest.raises(ConfigError, match="needs a base_url"):
            class_of(self.settings(format="ollama"), KINDS["mistral"])

    def test_another_is_refused_with_those_that_there_are(self) -> None:
        with pytest.raises(ConfigError, match="no format 'raw'; there are openai, ollama"):
            class_of(self.settings(format="raw"), KINDS["mistral"])

    def test_is_for_kinds_that_have_one(self) -> None:
        with pytest.raises(ConfigError, match="this kind has none"):
            class_of(self.settings(format="openai"), KINDS["cohere"])


class TestFields:
    def test_are_said_in_mistrals_words(self) -> None:
        body = sent(
            stream=True, temperature=0.5, top_p=0.9, frequency_penalty=0.1, presence_penalty=0.2, max_completion_tokens=7,
            stop="END", seed=3, n=2, logprobs=True, top_logprobs=2, reasoning_effort="high", parallel_tool_calls=False,
            tools=[WEATHER], metadata={"a": "b"}, prompt_cache_key="k", service_tier="default",
            prediction={"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            stream_options={"include_usage": True},
        )  # fmt: skip
        assert body == {
            "model": "mistral-large-latest", "messages": [{"role": "user", "content": "hi"}], "stream": True,
            "temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.2, "max_tokens": 7,
            "stop": ["END"], "random_seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2, "reasoning_effort": "high",
            "parallel_tool_calls": False, "tools": [WEATHER], "metadata": {"a": "b"}, "prompt_cache_key": "k",
            "service_tier": "standard_only", "prediction": {"type": "content", "content": "ab"},
        }  # fmt: skip

    def test_of_mistrals_own_pass_as_they_are(self) -> None:
        own = {"safe_prompt": True, "random_seed": 4, "prompt_mode": "reasoning", "top_k": 3, "min_tokens": 1,
               "repetition_penalty": 1.1, "guardrails": [{"x": 1}]}  # fmt: skip
        assert {name: value for name, value in sent(**own, seed=9).items() if name in own} == own

    def test_without_a_word_are_left_out_and_named(self) -> None:
        request = prepare(user="u", store=True, service_tier="flex", verbosity="low")
        assert set(request.dropped) == {"user", "store", "service_tier", "verbosity"}
        assert set(json.loads(request.body)) == {"model", "messages", "stream"}

    @pytest.mark.parametrize(("name", "value"), [("logit_bias", {"1": 1}), ("modalities", ["audio"]), ("new", 1)])
    def test_that_change_the_answer_are_refused_by_name(self, name: str, value: Any) -> None:
        with pytest.raises(InvalidRequest) as caught:
            prepare(**{name: value})
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")

    @pytest.mark.parametrize("value", ["x", {"type": "content"}, []])
    def test_prediction_must_be_one(self, value: Any) -> None:
        with pytest.raises(InvalidRequest):
            prepare(prediction=value)

    def test_schema_keeps_its_name_and_strictness(self) -> None:
        schema = {"name": "x", "schema": {"type": "object"}, "strict": True, "description": "d"}
        assert sent(response_format={"type": "json_schema", "json_schema": schema})["response_format"] == {
            "type": "json_schema",
            "json_schema": schema,
        }
        nameless = {"type": "json_schema", "json_schema": {"schema": {}}}
        assert sent(response_format=nameless)["response_format"]["json_schema"] == {"name": "answer", "schema": {}}
        assert sent(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}

    @pytest.mark.parametrize(
        ("fates", "operation"),
        [
            (FATES, "chat"),
            (TEXT_FATES, "completions"),
            (FIM_FATES, "completions"),
            (EMBEDDING_FATES, "embeddings"),
            (MODERATION_FATES, "moderations"),
        ],
    )
    def test_fates_are_known_ones_and_all_but_extras_are_openais(self, fates: Any, operation: Any) -> None:
        assert set(fates.values()) <= set(get_args(Fate))
        assert {name for name, fate in fates.items() if fate != "passed"} <= set(FIELDS[operation])

    @pytest.mark.parametrize(
        ("choice", "said"),
        [("auto", "auto"), ("none", "none"), ("required", "any"),
         ({"type": "function", "function": {"name": "weather"}}, {"type": "function", "function": {"name": "weather"}})],
    )  # fmt: skip
    def test_tool_choice(self, choice: Any, said: Any) -> None:
        assert sent(tools=[WEATHER], tool_choice=choice)["tool_choice"] == said

    def test_tool_without_parameters_has_none_to_give(self) -> None:
        (tool,) = sent(tools=[{"type": "function", "function": {"name": "clock"}}])["tools"]
        assert tool["function"] == {"name": "clock", "parameters": {"type": "object", "properties": {}}}


class TestMessages:
    def test_keep_their_order(self) -> None:
        given = messages(
            {"role": "developer", "content": "a"}, {"role": "user", "content": "b"}, {"role": "system", "content": "c"}
        )
        assert [(one["role"], one["content"]) for one in given] == [("system", "a"), ("user", "b"), ("system", "c")]

    def test_calls_and_their_answers_have_ids_of_nine(self) -> None:
        foreign, own = "call_abc-0123456789", "D681PevKs"
        calls = [
            {"id": name, "type": "function", "function": {"name": "f", "arguments": text}}
            for name, text in ((foreign, '{"a": 1}'), (own, ""))
        ]
        given = messages(
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": foreign, "content": "1"},
            {"role": "tool", "tool_call_id": own, "content": "2"},
        )
        assert [call["id"] for call in given[1]["tool_calls"]] == [one["tool_call_id"] for one in given[2:]]
        assert all(re.fullmatch("[a-zA-Z0-9]{9}", one["tool_call_id"]) for one in given[2:])
        assert given[3]["tool_call_id"] == own
        assert given[1]["tool_calls"][1]["function"]["arguments"] == "{}"
        assert (given[2]["name"], given[2]["content"]) == ("f", "1")

    @given(st.text(max_size=40))
    def test_id_of_a_call_is_always_the_same_for_the_same(self, name: str) -> None:
        assert re.fullmatch("[a-zA-Z0-9]{9}", call_id(name))
        assert call_id(name) == call_id(name) == call_id(call_id(name))

    def test_last_word_of_the_assistant_is_a_prefix(self) -> None:
        first, last = messages({"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"})
        assert ("prefix" in first, last["prefix"]) == (False, True)

    def test_call_at_the_end_is_none(self) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        assert "prefix" not in messages({"role": "assistant", "content": "a", "tool_calls": [call]})[0]

    def test_thoughts_come_back_before_the_text_and_those_of_others_do_not(self) -> None:
        blocks = [
            {"type": "thinking", "thinking": "Hm", "signature": "mistral:s"},
            {"type": "thinking", "thinking": "Another's", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "thinking", "thinking": "So", "signature": ""},
        ]
        given = messages(
            {"role": "assistant", "content": "a", "thinking_blocks": blocks}, {"role": "user", "content": "b"}
        )
        assert given[0]["content"] == [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}], "signature": "s"},
            {"type": "thinking", "thinking": [{"type": "text", "text": "So"}]},
            {"type": "text", "text": "a"},
        ]

    def test_every_part_has_its_own_word(self) -> None:
        (given,) = messages(
            {"role": "user", "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "https://h/i.png", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_id": "f"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
                {"type": "file", "file": {"file_data": "https://h/a.pdf"}}]}
        )  # fmt: skip
        assert given["content"] == [
            {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": "https://h/i.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}},
            {"type": "input_audio", "input_audio": "AAAA"},
            {"type": "file", "file_id": "f"},
            {"type": "document_url", "document_url": "data:application/pdf;base64,AAAA", "document_name": "a.pdf"},
            {"type": "document_url", "document_url": "https://h/a.pdf"},
        ]


class TestCompletionsAndEmbeddings:
    def test_prompt_is_one_users_message(self) -> None:
        body = sent("completions", prompt="Once", max_tokens=5)
        assert body == {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Once"}], "stream": False,
                        "max_tokens": 5}  # fmt: skip

    def test_gap_is_filled(self) -> None:
        body = sent(
            "completions", prompt="def f(", suffix="return 1", max_tokens=5, seed=1, stop="x", stream=True, min_tokens=2
        )
        assert body == {
            "model": "mistral-large-latest", "prompt": "def f(", "suffix": "return 1", "stream": True, "max_tokens": 5,
            "random_seed": 1, "stop": ["x"], "min_tokens": 2,
        }  # fmt: skip

    @pytest.mark.parametrize(
        "field",
        [
            {"prompt": ["a", "b"]},
            {"echo": True},
            {"best_of": 2},
            {"logprobs": 1},
            {"suffix": ["x"]},
            {"suffix": "x", "n": 2},
        ],
    )
    def test_what_neither_can_do_is_refused(self, field: Any) -> None:
        with pytest.raises(InvalidRequest):
            prepare("completions", **field)

    def test_inputs(self) -> None:
        assert sent("embeddings", input="a", dimensions=256, encoding_format="base64", output_dtype="float") == {
            "model": "mistral-large-latest", "input": ["a"], "encoding_format": "float", "output_dimension": 256,
            "output_dtype": "float",
        }  # fmt: skip
        with pytest.raises(InvalidRequest):
            prepare("embeddings", input=[1])
        with pytest.raises(InvalidRequest):
            prepare("embeddings", dimensions="x")

    def test_texts_to_be_judged(self) -> None:
        assert sent("moderations", input="a") == {"model": "mistral-large-latest", "input": ["a"]}
        with pytest.raises(InvalidRequest, match='"input" must be a text'):
            prepare("moderations", input=[{"role": "user", "content": "a"}])
        with pytest.raises(InvalidRequest, match='does not support "threshold"'):
            prepare("moderations", threshold=0.5)
