from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, get_args

import pytest
from support.provider_streams import asked, provider

from trio_ai_proxy.chat.fields import FIELDS, Fate
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.cohere_request import EMBEDDING_FATES, FATES, TEXT_FATES
from trio_ai_proxy.settings import AuthSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import UpstreamRequest

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}, "strict": True},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def prepare(operation: Any = "chat", *, stream: bool = False, settings: Any = None, **fields: Any) -> UpstreamRequest:
    return provider("cohere", **(settings or {})).prepare(
        asked(operation, **fields), model="command-a-03-2025", stream=stream
    )


def sent(operation: Any = "chat", **manner: Any) -> dict[str, Any]:
    return json.loads(prepare(operation, **manner).body)


def messages(*given: dict[str, Any]) -> list[dict[str, Any]]:
    return sent(messages=list(given))["messages"]


class TestAddressAndHead:
    @pytest.mark.parametrize(
        ("operation", "path"), [("chat", "/v2/chat"), ("completions", "/v2/chat"), ("embeddings", "/v2/embed")]
    )
    def test_follow_the_operation(self, operation: Any, path: str) -> None:
        assert prepare(operation).url == f"https://api.cohere.com{path}"
        assert prepare(operation, settings={"base_url": "http://h/x/"}).url == f"http://h/x{path}"

    def test_carry_the_key_and_what_is_wanted(self) -> None:
        assert dict(prepare(stream=True).headers)[b"authorization"] == b"Bearer sk-1234567890"
        assert dict(prepare(stream=True).headers)[b"accept"] == b"text/event-stream"
        assert dict(prepare().headers)[b"accept"] == b"application/json"

    def test_credential_can_be_in_the_body(self) -> None:
        auth = AuthSettings(param_name="token", param_value=Secret("abcdef", "a test"), param_location="body")
        assert sent(settings={"auth": auth})["token"] == "abcdef"


class TestFields:
    def test_are_said_in_coheres_words(self) -> None:
        body = sent(
            stream=True, temperature=0.5, top_p=0.9, frequency_penalty=0.1, presence_penalty=0.2, max_tokens=7, stop="END",
            seed=3, logprobs=True, stream_options={"include_usage": True}, n=1, user="u",
        )  # fmt: skip
        assert body == {
            "model": "command-a-03-2025", "messages": [{"role": "user", "content": "hi"}], "stream": True,
            "temperature": 0.5, "p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.2, "max_tokens": 7,
            "stop_sequences": ["END"], "seed": 3, "logprobs": True,
        }  # fmt: skip

    def test_of_coheres_own_pass_as_they_are(self) -> None:
        own = {
            "k": 5, "p": 0.4, "safety_mode": "OFF", "documents": ["a", {"id": "b", "data": {"text": "t"}}], "priority": 2,
            "citation_options": {"mode": "FAST"}, "thinking": {"type": "enabled", "token_budget": 9}, "strict_tools": False,
        }  # fmt: skip
        assert {name: value for name, value in sent(**own, top_p=0.9).items() if name in own} == own

    def test_without_a_word_are_left_out_and_named(self) -> None:
        request = prepare(user="u", metadata={"a": "b"}, store=True, parallel_tool_calls=True)
        assert set(request.dropped) == {"user", "metadata", "store"}
        assert set(json.loads(request.body)) == {"model", "messages", "stream"}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("n", 2),
            ("logit_bias", {"1": 1}),
            ("top_logprobs", 2),
            ("parallel_tool_calls", False),
            ("audio", {}),
            ("new", 1),
        ],
    )
    def test_that_change_the_answer_are_refused_by_name(self, name: str, value: Any) -> None:
        with pytest.raises(InvalidRequest) as caught:
            prepare(**{name: value})
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")

    @pytest.mark.parametrize(
        ("effort", "thinking", "dropped"),
        [("none", {"type": "disabled"}, ()), ("high", {"type": "enabled"}, ()), ("low", None, ("reasoning_effort",))],
    )
    def test_effort_is_to_think_or_not(self, effort: str, thinking: Any, dropped: Any) -> None:
        request = prepare(reasoning_effort=effort)
        assert (json.loads(request.body).get("thinking"), request.dropped) == (thinking, dropped)

    def test_schema_is_a_json_object(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        wrapped = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
        assert sent(response_format=wrapped)["response_format"] == {"type": "json_object", "json_schema": schema}
        assert sent(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}
        assert "response_format" not in sent(response_format={"type": "text"})

    def test_of_the_request_stay_as_they_were(self) -> None:
        fields = {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
            "tools": [WEATHER],
        }
        before = copy.deepcopy(fields)
        provider("cohere").prepare(ChatRequest("chat", "m", False, False, fields), model="x", stream=True)
        assert fields == before

    @pytest.mark.parametrize(
        ("fates", "operation"), [(FATES, "chat"), (TEXT_FATES, "completions"), (EMBEDDING_FATES, "embeddings")]
    )
    def test_fates_are_known_ones_and_all_but_extras_are_openais(self, fates: Any, operation: Any) -> None:
        assert set(fates.values()) <= set(get_args(Fate))
        assert {name for name, fate in fates.items() if fate != "passed"} <= set(FIELDS[operation])


class TestTools:
    def test_are_functions_with_parameters(self) -> None:
        body = sent(tools=[WEATHER, CLOCK])
        assert body["tools"] == [
            {"type": "function",
             "function": {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}},
        ]  # fmt: skip
        assert body["strict_tools"] is True
        assert "strict_tools" not in sent(tools=[CLOCK])

    @pytest.mark.parametrize(("choice", "word"), [("auto", None), ("none", "NONE"), ("required", "REQUIRED")])
    def test_choice_is_said_in_capitals(self, choice: str, word: str | None) -> None:
        assert sent(tools=[CLOCK], tool_choice=choice).get("tool_choice") == word

    def test_one_that_is_named_is_the_only_one_and_demanded(self) -> None:
        body = sent(tools=[WEATHER, CLOCK], tool_choice={"type": "function", "function": {"name": "clock"}})
        assert ([tool["function"]["name"] for tool in body["tools"]], body["tool_choice"]) == (["clock"], "REQUIRED")

    def test_one_that_is_named_must_be_there(self) -> None:
        with pytest.raises(InvalidRequest, match="not among the tools"):
            prepare(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "clock"}})

    def test_older_form_is_read(self) -> None:
        body = sent(functions=[{"name": "clock"}], function_call={"name": "clock"})
        assert (body["tools"][0]["function"]["name"], body["tool_choice"]) == ("clock", "REQUIRED")


class TestMessages:
    def test_keep_their_order(self) -> None:
        roles = ["system", "user", "developer", "user"]
        assert [one["role"] for one in messages(*({"role": role, "content": "a"} for role in roles))] == [
            "system", "user", "system", "user",
        ]  # fmt: skip

    def test_calls_and_their_answers(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
        empty = {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}}
        given = messages(
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [call, empty]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {
                "role": "tool",
                "tool_call_id": "c2",
                "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}],
            },
        )
        assert given[1:] == [
            {"role": "assistant", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "tool", "tool_call_id": "c2",
             "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]},
        ]  # fmt: skip

    def test_thoughts_before_calls_are_the_plan_and_others_stay_here(self) -> None:
        block = {"type": "thinking", "thinking": "I will", "signature": "s"}
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        planned, spoken = messages(
            {"role": "assistant", "content": "a", "thinking_blocks": [block], "tool_calls": [call]},
            {"role": "assistant", "content": "b", "thinking_blocks": [block]},
        )
        assert (planned["tool_plan"], planned["content"]) == ("I will", "a")
        assert spoken == {"role": "assistant", "content": "b"}

    def test_images_are_an_address_or_a_data_url(self) -> None:
        (given,) = messages(
            {"role": "user", "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "https://h/i.png", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}}]}
        )  # fmt: skip
        assert given["content"] == [
            {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": "https://h/i.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}},
        ]

    @pytest.mark.parametrize(
        ("role", "part"),
        [("user", {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
         ("user", {"type": "file", "file": {"file_id": "f"}}),
         ("system", {"type": "image_url", "image_url": {"url": "https://h/i.png"}})],
    )  # fmt: skip
    def test_what_cannot_be_taken_is_named_by_its_place(self, role: str, part: Any) -> None:
        with pytest.raises(InvalidRequest) as caught:
            messages({"role": role, "content": [{"type": "text", "text": "a"}, part]})
        assert caught.value.param == "messages.0.content.1"

    def test_refusal_is_what_was_said(self) -> None:
        assert messages({"role": "assistant", "content": None, "refusal": "No."})[0]["content"] == "No."
        assert messages({"role": "assistant", "content": None})[0]["content"] == ""


class TestCompletionsAndEmbeddings:
    def test_prompt_is_one_users_message(self) -> None:
        body = sent("completions", prompt="Once", max_tokens=5, stop=["a", "b"])
        assert body["messages"] == [{"role": "user", "content": "Once"}]
        assert (body["max_tokens"], body["stop_sequences"]) == (5, ["a", "b"])

    @pytest.mark.parametrize(
        "field", [{"prompt": ["a", "b"]}, {"suffix": "x"}, {"echo": True}, {"best_of": 2}, {"logprobs": 1}]
    )
    def test_what_a_chat_cannot_do_is_refused(self, field: Any) -> None:
        with pytest.raises(InvalidRequest):
            prepare("completions", **field)

    def test_inputs_are_texts_to_be_found(self) -> None:
        assert sent("embeddings", input="a", dimensions=256, encoding_format="base64") == {
            "model": "command-a-03-2025", "texts": ["a"], "input_type": "search_document", "embedding_types": ["float"],
            "output_dimension": 256,
        }  # fmt: skip
        body = sent("embeddings", input=["a", "b"], input_type="search_query", truncate="END")
        assert (body["texts"], body["input_type"], body["truncate"]) == (["a", "b"], "search_query", "END")

    @pytest.mark.parametrize("field", [{"input": [1, 2]}, {"dimensions": "x"}, {"dimensions": True}, {"new": 1}])
    def test_what_cannot_be_embedded_is_refused(self, field: Any) -> None:
        with pytest.raises(InvalidRequest):
            prepare("embeddings", **field)
