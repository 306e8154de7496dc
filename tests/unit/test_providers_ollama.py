from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from trio_ai_proxy.chat.events import Embedded, Ended, Started
from trio_ai_proxy.chat.fields import CHAT_FIELDS, EMBEDDING_FIELDS, OURS, TEXT_FIELDS
from trio_ai_proxy.chat.request import ChatRequest, Operation, Unsupported
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.ollama import OllamaProvider
from trio_ai_proxy.providers.ollama_request import EMBEDDING_FATES, FATES, TEXT_FATES
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.settings import AuthSettings, ProviderSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import UpstreamRequest

HI = [{"role": "user", "content": "Hi"}]
PNG = "iVBORw0KGgo="


def provider(**settings: Any) -> OllamaProvider:
    made = build_provider(ProviderSettings(name="p", kind="ollama", **settings))
    assert isinstance(made, OllamaProvider)
    return made


def prepare(
    fields: dict[str, Any],
    *,
    operation: Operation = "chat",
    stream: bool = False,
    unsupported: Unsupported = "auto",
    **settings: Any,
) -> UpstreamRequest:
    request = ChatRequest(operation, "asked", stream, False, fields, unsupported)
    return provider(**settings).prepare(request, model="real:8b", stream=stream)


def sent(fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return json.loads(prepare(fields, **more).body)


def chat(**fields: Any) -> dict[str, Any]:
    return sent({"messages": HI, **fields})


def refused(fields: dict[str, Any], **more: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(fields, **more)
    return caught.value.param


class TestAddress:
    @pytest.mark.parametrize(
        ("operation", "fields", "path"),
        [
            ("chat", {"messages": HI}, "/api/chat"),
            ("completions", {"prompt": "x"}, "/api/generate"),
            ("embeddings", {"input": "x"}, "/api/embed"),
        ],
    )
    def test_is_the_operations(self, operation: Operation, fields: dict[str, Any], path: str) -> None:
        assert prepare(fields, operation=operation).url == f"http://127.0.0.1:11434{path}"
        assert prepare(fields, operation=operation, base_url="http://h:1/x/").url == f"http://h:1/x{path}"

    def test_a_stream_is_asked_for_as_lines(self) -> None:
        request = prepare({"messages": HI}, stream=True)
        assert dict(request.headers)[b"accept"] == b"application/x-ndjson"
        assert json.loads(request.body)["stream"] is True
        assert provider().stream_types == ("application/x-ndjson",)

    def test_a_whole_answer_is_asked_for_in_words_because_a_stream_is_what_comes_otherwise(self) -> None:
        assert chat()["stream"] is False
        assert "stream" not in sent({"input": "x"}, operation="embeddings")

    def test_no_credential_is_needed_and_one_of_the_cloud_is_a_bearer(self) -> None:
        assert b"authorization" not in dict(prepare({"messages": HI}).headers)
        key = Secret("abcdefgh", "a test")
        assert dict(prepare({"messages": HI}, api_key=key).headers)[b"authorization"] == b"Bearer abcdefgh"

    def test_body_parameter_is_added(self) -> None:
        auth = AuthSettings(param_name="token", param_value=Secret("abcdefgh", "a test"), param_location="body")
        assert sent({"messages": HI}, auth=auth)["token"] == "abcdefgh"


class TestMessages:
    def test_keep_their_order_and_a_developer_is_the_system(self) -> None:
        said = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "In French."},
            {"role": "assistant", "content": "Salut"},
        ]
        assert sent({"messages": said})["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "In French."},
            {"role": "assistant", "content": "Salut"},
        ]

    def test_images_are_base64_beside_the_text(self) -> None:
        content = [
            {"type": "text", "text": "What is"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
            {"type": "text", "text": " this?"},
        ]
        [message] = sent({"messages": [{"role": "user", "content": content}]})["messages"]
        assert message == {"role": "user", "content": "What is this?", "images": [PNG]}

    @pytest.mark.parametrize(
        ("part", "place"),
        [
            ({"type": "image_url", "image_url": {"url": "https://h/a.png"}}, "messages.0.content.0"),
            ({"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}, "messages.0.content.0"),
            ({"type": "file", "file": {"file_id": "f"}}, "messages.0.content.0"),
            ({"type": "file", "file": {"file_data": PNG}}, "messages.0.content.0"),
        ],
    )
    def test_that_cannot_be_said_are_refused_by_their_place(self, part: dict[str, Any], place: str) -> None:
        assert refused({"messages": [{"role": "user", "content": [part]}]}) == place

    def test_calls_and_their_answers_go_back_as_objects_with_the_functions_name(self) -> None:
        said = [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":{"b":1}}'}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "2"}]},
        ]
        assert sent({"messages": [*HI, *said]})["messages"][1:] == [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "c1", "function": {"name": "f", "arguments": {"a": {"b": 1}}}},
                    {"id": "c2", "function": {"name": "g", "arguments": {}}},
                ],
            },
            {"role": "tool", "content": "1", "tool_call_id": "c1", "tool_name": "f"},
            {"role": "tool", "content": "2", "tool_call_id": "c2", "tool_name": "g"},
        ]

    def test_arguments_that_are_no_object_are_the_clients_fault(self) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
        where = refused({"messages": [{"role": "assistant", "tool_calls": [call]}]})
        assert where == "messages.0.tool_calls.0.function.arguments"

    @pytest.mark.parametrize(
        "thoughts",
        [
            {"reasoning_content": "Hm."},
            {"reasoning": "Hm."},
            {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": ""}]},
        ],
    )
    def test_thoughts_go_back(self, thoughts: dict[str, Any]) -> None:
        [message] = sent({"messages": [{"role": "assistant", "content": "Hi", **thoughts}]})["messages"]
        assert message == {"role": "assistant", "content": "Hi", "thinking": "Hm."}

    def test_a_refusal_is_what_the_assistant_said(self) -> None:
        [message] = sent({"messages": [{"role": "assistant", "content": None, "refusal": "No."}]})["messages"]
        assert message["content"] == "No."


class TestTools:
    TOOL: ClassVar[dict[str, Any]] = {
        "type": "function",
        "function": {
            "name": "f",
            "description": "d",
            "parameters": {"type": "object", "properties": {}},
            "strict": True,
        },
    }

    def test_are_said_in_the_same_words(self) -> None:
        bare = {"type": "function", "function": {"name": "g"}}
        assert chat(tools=[self.TOOL, bare])["tools"] == [
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
            },
            {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
        ]

    def test_in_the_older_form_are_the_same(self) -> None:
        assert chat(functions=[self.TOOL["function"]]) == chat(tools=[self.TOOL])

    def test_that_shall_not_be_called_are_not_told(self) -> None:
        assert "tools" not in chat(tools=[self.TOOL], tool_choice="none")
        assert "tools" in chat(tools=[self.TOOL], tool_choice="auto")

    @pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
    def test_that_must_be_called_are_refused_or_left_to_the_model(self, choice: Any) -> None:
        fields = {"messages": HI, "tools": [self.TOOL], "tool_choice": choice}
        assert refused(fields) == "tool_choice"
        request = prepare(fields, unsupported="drop")
        assert request.dropped == ("tool_choice",)
        assert "tools" in json.loads(request.body)

    def test_one_at_a_time_cannot_be_promised(self) -> None:
        assert refused({"messages": HI, "parallel_tool_calls": False}) == "parallel_tool_calls"
        assert chat(parallel_tool_calls=True) == chat()


class TestOptions:
    def test_hold_the_sampling(self) -> None:
        assert chat(
            temperature=0, top_p=0.5, frequency_penalty=1, presence_penalty=-1, stop="x", seed=7, max_tokens=5
        )["options"] == {
            "temperature": 0, "top_p": 0.5, "frequency_penalty": 1, "presence_penalty": -1, "seed": 7, "num_predict": 5,
            "stop": ["x"],
        }  # fmt: skip

    def test_newer_limit_wins_over_the_older(self) -> None:
        assert chat(max_tokens=5, max_completion_tokens=6)["options"] == {"num_predict": 6}

    def test_are_not_made_up(self) -> None:
        assert chat() == {"model": "real:8b", "messages": HI, "stream": False}

    def test_of_ollamas_own_are_taken_from_beside_openais_fields(self) -> None:
        assert chat(top_k=40, min_p=0.05, num_ctx=8192, temperature=1)["options"] == {
            "top_k": 40, "min_p": 0.05, "num_ctx": 8192, "temperature": 1,
        }  # fmt: skip

    def test_in_ollamas_own_words_win(self) -> None:
        assert chat(temperature=1, options={"temperature": 0.5, "num_gpu": 1})["options"] == {
            "temperature": 0.5, "num_gpu": 1,
        }  # fmt: skip

    def test_that_are_no_object_are_the_clients_fault(self) -> None:
        assert refused({"messages": HI, "options": [1]}) == "options"


class TestFormat:
    SCHEMA: ClassVar[dict[str, Any]] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

    def test_is_json_or_the_schema(self) -> None:
        assert "format" not in chat(response_format={"type": "text"})
        assert chat(response_format={"type": "json_object"})["format"] == "json"
        named = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": self.SCHEMA}}
        assert chat(response_format=named)["format"] == self.SCHEMA

    def test_in_ollamas_own_words_passes(self) -> None:
        assert chat(format=self.SCHEMA)["format"] == self.SCHEMA


class TestThinking:
    @pytest.mark.parametrize(
        ("effort", "think"),
        [("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "max")],
    )
    def test_is_as_much_as_the_effort(self, effort: str, think: Any) -> None:
        assert chat(reasoning_effort=effort)["think"] == think

    def test_is_not_said_where_no_effort_is(self) -> None:
        assert "think" not in chat()

    def test_in_ollamas_own_words_wins(self) -> None:
        assert chat(reasoning_effort="high", think=False)["think"] is False


class TestFields:
    def test_extras_of_ollama_pass(self) -> None:
        body = chat(keep_alive="10m", truncate=False, shift=False)
        assert (body["keep_alive"], body["truncate"], body["shift"]) == ("10m", False, False)

    def test_logprobs_are_asked_for(self) -> None:
        body = chat(logprobs=True, top_logprobs=3)
        assert (body["logprobs"], body["top_logprobs"]) == (True, 3)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("n", 2),
            ("logit_bias", {"1": 1}),
            ("audio", {}),
            ("modalities", ["audio"]),
            ("web_search_options", {}),
            ("x", 1),
        ],
    )
    def test_that_change_the_answer_and_have_no_word_are_refused(self, field: str, value: Any) -> None:
        assert refused({"messages": HI, field: value}) == field

    def test_that_do_not_change_the_answer_are_left_out_and_named(self) -> None:
        aside = {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "verbosity": "low"}
        request = prepare({"messages": HI, **aside})
        assert set(request.dropped) == set(aside)
        assert json.loads(request.body) == chat()

    @pytest.mark.parametrize(
        ("fates", "fields"), [(FATES, CHAT_FIELDS), (TEXT_FATES, TEXT_FIELDS), (EMBEDDING_FATES, EMBEDDING_FIELDS)]
    )
    def test_every_one_with_a_fate_is_openais_or_passes(self, fates: Any, fields: Any) -> None:
        assert all(name in fields for name, fate in fates.items() if fate != "passed")
        assert not OURS & fates.keys()


class TestText:
    def test_is_generated_with_its_options(self) -> None:
        fields = {"prompt": "Once", "suffix": "end", "max_tokens": 5, "raw": True, "keep_alive": 0, "echo": False}
        assert sent(fields, operation="completions") == {
            "model": "real:8b", "prompt": "Once", "suffix": "end", "options": {"num_predict": 5}, "raw": True,
            "keep_alive": 0, "stream": False,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("field", "value"), [("echo", True), ("best_of", 2), ("logprobs", 1), ("n", 2), ("suffix", 1)]
    )
    def test_with_what_has_no_word_is_refused(self, field: str, value: Any) -> None:
        assert refused({"prompt": "x", field: value}, operation="completions") == field

    @pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1]]])
    def test_of_several_or_of_tokens_is_refused(self, prompt: Any) -> None:
        assert refused({"prompt": prompt}, operation="completions") == "prompt"


class TestEmbeddings:
    def test_are_asked_for_at_once(self) -> None:
        fields = {
            "input": ["a", "b"],
            "dimensions": 256,
            "encoding_format": "base64",
            "truncate": False,
            "num_ctx": 512,
        }
        assert sent(fields, operation="embeddings") == {
            "model": "real:8b", "input": ["a", "b"], "dimensions": 256, "truncate": False, "options": {"num_ctx": 512},
        }  # fmt: skip
        assert sent({"input": "a"}, operation="embeddings")["input"] == ["a"]

    @pytest.mark.parametrize(
        ("fields", "place"),
        [({"input": [1, 2]}, "input"), ({"input": "a", "dimensions": "x"}, "dimensions"), ({"input": [""]}, "input")],
    )
    def test_that_cannot_be_asked_for_are_refused(self, fields: dict[str, Any], place: str) -> None:
        assert refused(fields, operation="embeddings") == place

    def test_are_read_as_such(self) -> None:
        request = ChatRequest("embeddings", "m", False, False, {"input": ["a"]})
        events = provider().read_answer(request, b'{"model":"m","embeddings":[[1.5]]}')
        assert events == [Started("", "m"), Embedded([1.5]), Ended()]


class TestErrors:
    def test_keep_their_words_and_their_status(self) -> None:
        error = provider().read_error(404, {}, b'{"error":"model \\"x\\" not found, try pulling it first"}')
        assert (error.message, error.upstream_status) == ('model "x" not found, try pulling it first', 404)

    def test_of_a_busy_server_keep_the_time_to_wait(self) -> None:
        error = provider().read_error(503, {"Retry-After": "2"}, b'{"error":"server busy"}')
        assert error.retry_after == 2

    def test_do_not_show_the_key(self) -> None:
        made = provider(api_key=Secret("abcdefgh", "a test"))
        assert "abcdefgh" not in made.read_error(401, {}, b'{"error":"unauthorized: abcdefgh"}').message


def test_operation_that_is_not_served_is_a_bad_request() -> None:
    kind = KINDS["llama2"]
    made = OllamaProvider(ProviderSettings(name="p", kind="llama2", base_url="http://h"), kind)
    with pytest.raises(InvalidRequest, match="does not serve embeddings"):
        made.prepare(ChatRequest("embeddings", "m", False, False, {"input": "x"}), model="m", stream=False)
