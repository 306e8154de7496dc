from __future__ import annotations

import copy
import json
from base64 import b64encode
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ai_proxy.chat.fields import CHAT_FIELDS, TEXT_FIELDS
from trio_ai_proxy.chat.fold import Fold
from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.anthropic import FATES, AnthropicProvider
from trio_ai_proxy.providers.anthropic_models import abilities
from trio_ai_proxy.providers.anthropic_request import messages_body
from trio_ai_proxy.providers.anthropic_schema import held_schema
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.settings import AuthSettings, ProviderSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import UpstreamRequest

HI = [{"role": "user", "content": "hi"}]
NEW, OLD, OLDEST = "claude-opus-5", "claude-sonnet-4-5", "claude-3-haiku-20240307"
CACHE = {"type": "ephemeral"}


def provider(**settings: Any) -> AnthropicProvider:
    settings.setdefault("api_key", Secret("sk-ant-1234567890", "a test"))
    made = build_provider(ProviderSettings(name="p", kind="anthropic", **settings))
    assert isinstance(made, AnthropicProvider)
    return made


def asked(operation: Operation = "chat", unsupported: Any = "auto", **fields: Any) -> ChatRequest:
    if operation == "chat":
        fields = {"messages": HI, **fields}
    return ChatRequest(operation, "asked", False, False, fields, unsupported)


def prepare(stream: bool = False, settings: dict[str, Any] | None = None, **fields: Any) -> UpstreamRequest:
    return provider(**(settings or {})).prepare(asked(**fields), model=NEW, stream=stream)


def body(model: str = NEW, *, unsupported: Any = "auto", **fields: Any) -> dict[str, Any]:
    return said(model, unsupported=unsupported, **fields)[0]


def said(model: str = NEW, *, unsupported: Any = "auto", **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    request = asked("completions" if "prompt" in fields else "chat", unsupported, **fields)
    before = copy.deepcopy(request.fields)
    made = messages_body(request, model=model, stream=False, provider="anthropic")
    assert request.fields == before, "a request is read, never written"
    return made


def refused(model: str = NEW, **fields: Any) -> str:
    with pytest.raises(InvalidRequest) as raised:
        body(model, **fields)
    return str(raised.value.param)


def messages(*turns: Any, model: str = NEW) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = body(model, messages=list(turns))["messages"]
    return found


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def result(call_id: str, content: Any = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def call(call_id: str, name: str = "f", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


class TestWhereItGoes:
    def test_is_the_documented_path_of_the_origin(self) -> None:
        assert prepare().url == "https://api.anthropic.com/v1/messages"
        assert prepare(settings={"base_url": "http://h/prefix/"}).url == "http://h/prefix/v1/messages"

    def test_is_not_the_requests_to_choose(self) -> None:
        with pytest.raises(InvalidRequest, match="base_url"):
            prepare(base_url="http://evil")

    def test_head(self) -> None:
        head = dict(prepare(stream=True).headers)
        assert head[b"x-api-key"] == b"sk-ant-1234567890"
        assert head[b"anthropic-version"] == b"2023-06-01"
        assert head[b"accept"] == b"text/event-stream"
        assert b"authorization" not in head
        assert b"anthropic-beta" not in head

    def test_version_and_betas_are_configured(self) -> None:
        head = dict(prepare(settings={"version": "2026-10-21", "beta": ("a-1", "b-2")}).headers)
        assert head[b"anthropic-version"] == b"2026-10-21"
        assert head[b"anthropic-beta"] == b"a-1,b-2"

    def test_credential_may_be_another(self) -> None:
        auth = AuthSettings(header_name="Authorization", header_value=Secret("Bearer sk-ant-oat", "a test"))
        head = dict(prepare(settings={"auth": auth, "api_key": None}).headers)
        assert head[b"authorization"] == b"Bearer sk-ant-oat"
        assert b"x-api-key" not in head

    def test_error_keeps_its_words_and_the_time_to_wait(self) -> None:
        told = (
            b'{"type":"error","error":{"type":"overloaded_error","message":"sk-ant-1234567890 busy"},"request_id":"r"}'
        )
        error = provider().read_error(529, {"Retry-After": "7"}, told)
        assert (error.status, error.type, error.message, error.retry_after) == (
            529,
            "overloaded_error",
            "*** busy",
            7.0,
        )

    def test_embeddings_are_not_served(self) -> None:
        with pytest.raises(InvalidRequest, match="does not serve embeddings"):
            provider().prepare(asked("embeddings", input="a"), model=NEW, stream=False)


class TestHead:
    def test_of_a_plain_question(self) -> None:
        assert body() == {"model": NEW, "max_tokens": 4096, "messages": [user([text("hi")])]}

    def test_a_stream_is_asked_for_by_a_field(self) -> None:
        assert json.loads(prepare(stream=True, stream_options={"include_usage": True}).body)["stream"] is True
        assert "stream" not in json.loads(prepare().body)

    def test_without_a_model_where_it_stands_elsewhere(self) -> None:
        request = asked(reasoning_effort="high")
        made, _ = messages_body(request, model=None, stream=False, provider="vertex", model_name="claude-haiku-4-5@1")
        assert "model" not in made
        assert made["thinking"] == {"type": "enabled", "budget_tokens": 16384}

    def test_a_completion_is_a_chat(self) -> None:
        assert body(prompt="Once", max_tokens=5) == {"model": NEW, "max_tokens": 5, "messages": [user([text("Once")])]}

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_max_tokens_goes_by_either_name(self, name: str) -> None:
        assert body(**{name: 7})["max_tokens"] == 7

    def test_sampling(self) -> None:
        made = body(temperature=0, top_p=0.5, top_k=3, stop="x")
        assert (made["temperature"], made["top_p"], made["top_k"], made["stop_sequences"]) == (0, 0.5, 3, ["x"])

    @pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
    def test_sampling_is_refused_where_the_version_has_none(self, name: str) -> None:
        with pytest.raises(InvalidRequest, match=name):
            prepare(settings={"version": "2026-10-21"}, **{name: 1})
        request = prepare(settings={"version": "2026-10-21"}, unsupported="drop", **{name: 1})
        assert request.dropped == (name,)
        assert name not in json.loads(request.body)

    def test_white_space_alone_does_not_stop(self) -> None:
        assert refused(stop=["\n", "x"]) == "stop"
        made, dropped = said(stop=["\n", "x"], unsupported="drop")
        assert (made["stop_sequences"], dropped) == (["x"], ("stop",))

    def test_who_the_user_is(self) -> None:
        assert body(user="u", safety_identifier="s")["metadata"] == {"user_id": "u"}
        assert body(safety_identifier="s")["metadata"] == {"user_id": "s"}

    @pytest.mark.parametrize(("tier", "sent"), [("auto", "auto"), ("default", "standard_only"), ("flex", None)])
    def test_service_tier(self, tier: str, sent: str | None) -> None:
        made, dropped = said(service_tier=tier)
        assert made.get("service_tier") == sent
        assert dropped == (() if sent else ("service_tier",))

    def test_extras_of_its_own_pass(self) -> None:
        extras = {
            "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}, "top_k": 5,
            "cache_control": CACHE, "context_management": {"edits": []},
        }  # fmt: skip
        assert {name: body(**extras)[name] for name in extras} == extras

    def test_what_has_no_word_is_refused_or_left_out(self) -> None:
        assert refused(n=2) == "n"
        assert refused(logprobs=True) == "logprobs"
        assert refused(unknown=1) == "unknown"
        _, dropped = said(seed=1, store=True, metadata={"a": "b"}, prompt_cache_key="k", verbosity="low", n=1)
        assert dropped == ("seed", "store", "metadata", "prompt_cache_key", "verbosity")

    def test_every_fate_is_of_a_field(self) -> None:
        unknown = {name for name, fate in FATES.items() if fate != "passed"} - set(CHAT_FIELDS) - set(TEXT_FIELDS)
        assert unknown == set()


class TestMessages:
    def test_turns_of_one_side_are_one_message(self) -> None:
        assert messages(user("a"), user("b"), assistant("c"), assistant("d"), user("e")) == [
            user([text("a"), text("b")]),
            assistant([text("c"), text("d")]),
            user([text("e")]),
        ]

    def test_results_of_tools_come_first_and_in_one_message(self) -> None:
        made = messages(
            user("a"), assistant(None, tool_calls=[call("1"), call("2", arguments='{"x":[1]}')]),
            result("1"), user("hm"), result("2", [text("b"), {"type": "image_url", "image_url": {"url": "https://i"}}]),
        )  # fmt: skip
        assert made[1:] == [
            assistant(
                [
                    {"type": "tool_use", "id": "1", "name": "f", "input": {}},
                    {"type": "tool_use", "id": "2", "name": "f", "input": {"x": [1]}},
                ]
            ),
            user(
                [
                    {"type": "tool_result", "tool_use_id": "1", "content": "ok"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "2",
                        "content": [text("b"), {"type": "image", "source": {"type": "url", "url": "https://i"}}],
                    },
                    text("hm"),
                ]
            ),
        ]

    def test_empty_turns_are_nobodys(self) -> None:
        assert messages(user("a"), assistant(""), user("b")) == [user([text("a"), text("b")])]
        assert messages(user("a"), assistant(None, tool_calls=[call("1")]), result("1", ""))[2]["content"] == [
            {"type": "tool_result", "tool_use_id": "1"}
        ]

    @pytest.mark.parametrize("turns", [[system("a")], [user("")], [user([])]])
    def test_nobody_at_all_is_a_bad_request(self, turns: list[Any]) -> None:
        assert refused(messages=turns) == "messages"

    def test_ids_of_calls_are_made_fit_and_unique(self) -> None:
        made = messages(
            user("a"), assistant(tool_calls=[call("functions.f:0"), call("functions_f_0")]),
            result("functions.f:0"), result("functions_f_0"),
            assistant(tool_calls=[call("functions.f:0")]), result("functions.f:0"), result("?"),
        )  # fmt: skip
        assert [block["id"] for block in made[1]["content"]] == ["functions_f_0", "functions_f_0_2"]
        assert [block["tool_use_id"] for block in made[2]["content"]] == ["functions_f_0", "functions_f_0_2"]
        assert made[3]["content"][0]["id"] == "functions_f_0_3"
        assert [block["tool_use_id"] for block in made[4]["content"]] == ["functions_f_0_3", "_"]

    def test_older_calls_have_an_id_each(self) -> None:
        older = assistant(function_call={"name": "f", "arguments": "{}"})
        answer = {"role": "function", "name": "f", "content": "1"}
        made = messages(user("a"), older, answer, older, answer)
        assert [made[at]["content"][0]["id"] for at in (1, 3)] == ["call_f", "call_f_2"]
        assert [made[at]["content"][0]["tool_use_id"] for at in (2, 4)] == ["call_f", "call_f_2"]

    def test_arguments_must_be_an_object(self) -> None:
        turns = [user("a"), assistant(tool_calls=[call("1", arguments="[1]")])]
        assert refused(messages=turns) == "messages.1.tool_calls.0.function.arguments"

    def test_a_refusal_is_what_the_assistant_said(self) -> None:
        assert messages(user("a"), assistant(None, refusal="no"), user("b"))[1] == assistant([text("no")])

    def test_thoughts_come_back_first_and_unchanged(self) -> None:
        blocks = [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
        ]
        made = messages(user("a"), assistant("b", thinking_blocks=blocks, tool_calls=[call("1")]), result("1"))
        assert made[1]["content"][:3] == [*blocks, text("b")]

    def test_thought_whose_text_stands_beside_it_comes_back_with_it(self) -> None:
        blocks = [{"type": "thinking", "thinking": "", "signature": "s"}]
        made = messages(user("a"), assistant("b", thinking_blocks=blocks, reasoning_content="hm"), user("c"))
        assert made[1]["content"][0] == {"type": "thinking", "thinking": "hm", "signature": "s"}

    def test_thoughts_that_nobody_signed_stay_out(self) -> None:
        blocks = [{"type": "thinking", "thinking": "hm", "signature": ""}]
        assert messages(user("a"), assistant("b", thinking_blocks=blocks), user("c"))[1] == assistant([text("b")])


class TestSystem:
    def test_at_the_beginning_is_the_requests(self) -> None:
        made = body(messages=[system("a"), {"role": "developer", "content": [text("b", cache_control=CACHE)]}, *HI])
        assert made["system"] == [text("a"), text("b", cache_control=CACHE)]
        assert made["messages"] == [user([text("hi")])]

    TURNS = (system("a"), user("b"), system("c"), assistant("d"), system("e"), user("f"), system("g"))

    def test_later_keeps_its_place_where_the_model_takes_it_there(self) -> None:
        made = body(NEW, messages=list(self.TURNS))
        assert made["system"] == [text("a")]
        assert made["messages"] == [
            user([text("b")]),
            system([text("c")]),
            assistant([text("d")]),
            user([text("f")]),
            system([text("e"), text("g")]),
        ]

    def test_later_joins_the_requests_where_it_does_not(self) -> None:
        made = body(OLD, messages=list(self.TURNS))
        assert made["system"] == [text("a"), text("c"), text("e"), text("g")]
        assert [one["role"] for one in made["messages"]] == ["user", "assistant", "user"]

    def test_with_no_user_before_it_joins_the_requests(self) -> None:
        made = body(NEW, messages=[user("a"), assistant("b"), system("c"), assistant("d")])
        assert made["system"] == [text("c")]
        assert made["messages"] == [user([text("a")]), assistant([text("b"), text("d")])]


def part(kind: str, **value: Any) -> dict[str, Any]:
    return {"type": kind, kind: value}


def block_of(one: dict[str, Any]) -> dict[str, Any]:
    [block] = messages(user([one]))[0]["content"]
    found: dict[str, Any] = block
    return found


def data_url(media_type: str, data: bytes = b"x") -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"


class TestParts:
    def test_images(self) -> None:
        assert block_of({**part("image_url", url="https://i/a.png"), "cache_control": CACHE}) == {
            "type": "image", "source": {"type": "url", "url": "https://i/a.png"}, "cache_control": CACHE,
        }  # fmt: skip
        assert block_of(part("image_url", url=data_url("image/jpg")))["source"] == {
            "type": "base64", "media_type": "image/jpeg", "data": "eA==",
        }  # fmt: skip

    def test_documents(self) -> None:
        pdf = {"type": "base64", "media_type": "application/pdf", "data": "eA=="}
        assert block_of(part("file", file_data=data_url("application/pdf"), filename="a.pdf")) == {
            "type": "document", "source": pdf, "title": "a.pdf",
        }  # fmt: skip
        assert block_of(part("file", file_data="https://i/a.pdf"))["source"] == {
            "type": "url",
            "url": "https://i/a.pdf",
        }
        assert block_of(part("file", file_id="file_1"))["source"] == {"type": "file", "file_id": "file_1"}
        assert block_of(part("file", file_data=data_url("text/markdown", "é".encode())))["source"] == {
            "type": "text", "media_type": "text/plain", "data": "é",
        }  # fmt: skip
        assert block_of(part("file", file_data=data_url("image/png")))["type"] == "image"

    @pytest.mark.parametrize(
        "one",
        [
            part("input_audio", data="eA==", format="wav"),
            part("image_url", url=data_url("image/bmp")),
            part("file", file_data=data_url("application/zip")),
            part("file", file_data=data_url("text/plain", b"\xff")),
        ],
    )
    def test_others_are_refused_by_their_place(self, one: dict[str, Any]) -> None:
        assert refused(messages=[user([text("a"), one])]) == "messages.0.content.1"

    @pytest.mark.parametrize("role", ["system", "assistant"])
    def test_only_texts_stand_with_others_than_users(self, role: str) -> None:
        turns = [user("a"), {"role": role, "content": [part("image_url", url="https://i")]}]
        assert refused(messages=turns) == "messages.1.content.0"

    def test_mark_for_the_cache_stands_on_the_result_itself(self) -> None:
        turns = [user("a"), assistant(tool_calls=[call("1")]), result("1", [text("b", cache_control=CACHE)])]
        assert messages(*turns)[2]["content"] == [
            {"type": "tool_result", "tool_use_id": "1", "content": "b", "cache_control": CACHE}
        ]


class TestTools:
    def test_are_translated(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}
        tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}
        assert body(tools=[{**tool, "cache_control": CACHE}])["tools"] == [
            {"name": "f", "description": "d", "input_schema": schema, "cache_control": CACHE}
        ]
        assert body(functions=[{"name": "f"}])["tools"] == [
            {"name": "f", "input_schema": {"type": "object", "properties": {}}}
        ]

    def test_strict_ones_are_held_to_their_schema(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
        tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
        [made] = body(tools=[tool])["tools"]
        assert made["strict"] is True
        assert made["input_schema"]["additionalProperties"] is False
        for model, parameters in ((OLDEST, schema), (NEW, {"type": "object", "additionalProperties": True})):
            tool["function"] = {"name": "f", "parameters": parameters, "strict": True}
            made_of, dropped = said(model, tools=[tool])
            assert made_of["tools"] == [{"name": "f", "input_schema": parameters}]
            assert dropped == ("tools.0.function.strict",)

    @pytest.mark.parametrize(
        ("choice", "parallel", "sent"),
        [
            (None, None, None),
            ("auto", None, {"type": "auto"}),
            ("none", None, {"type": "none"}),
            ("none", False, {"type": "none"}),
            ("required", True, {"type": "any"}),
            (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
            ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
            ({"type": "function", "function": {"name": "f"}}, None, {"type": "tool", "name": "f"}),
        ],
    )
    def test_choice(self, choice: Any, parallel: bool | None, sent: Any) -> None:
        made = body(tools=[TOOL], tool_choice=choice, parallel_tool_calls=parallel)
        assert made.get("tool_choice") == sent

    def test_choice_among_none_is_not_said(self) -> None:
        assert "tool_choice" not in body(tool_choice="auto", parallel_tool_calls=False)

    def test_search_of_the_web_is_the_providers_own_tool(self) -> None:
        place = {"type": "approximate", "approximate": {"city": "Oslo", "country": "NO"}}
        assert body(web_search_options={"search_context_size": "low"}, tools=[TOOL])["tools"][1] == {
            "type": "web_search_20250305", "name": "web_search",
        }  # fmt: skip
        assert body(web_search_options={"user_location": place})["tools"][0]["user_location"] == {
            "type": "approximate", "city": "Oslo", "country": "NO",
        }  # fmt: skip
        assert refused(web_search_options=1) == "web_search_options"


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": schema}}


POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
ANSWER = {"type": "tool", "name": "json_answer"}


class TestJson:
    def test_schema_is_held_by_the_api(self) -> None:
        made = body(response_format=schema_format(POINT), output_config={"effort": "low"})
        assert made["output_config"] == {
            "format": {"type": "json_schema", "schema": {**POINT, "additionalProperties": False}},
            "effort": "low",
        }
        assert "tools" not in made

    @pytest.mark.parametrize(
        ("model", "schema"),
        [(OLDEST, POINT), (NEW, {"type": "object"}), (NEW, {**POINT, "additionalProperties": {"type": "string"}})],
    )
    def test_schema_that_it_cannot_hold_is_a_tools(self, model: str, schema: dict[str, Any]) -> None:
        made = body(model, response_format=schema_format(schema))
        assert made["tool_choice"] == ANSWER
        [tool] = made["tools"]
        assert tool["input_schema"] == schema
        assert tool["description"].endswith(": d.")

    def test_any_object_is_a_tools(self) -> None:
        made = body(response_format={"type": "json_object"})
        assert made["tool_choice"] == ANSWER
        assert made["tools"][0]["input_schema"] == {"type": "object", "additionalProperties": True}

    def test_beside_other_tools_one_of_them_answers(self) -> None:
        json_object = {"type": "json_object"}
        assert body(response_format=json_object, tools=[TOOL])["tool_choice"] == {"type": "any"}
        assert body(response_format=json_object, tools=[TOOL], tool_choice="none")["tool_choice"] == ANSWER
        forced = body(response_format=json_object, tools=[TOOL], tool_choice="required")
        assert [tool["name"] for tool in forced["tools"]] == ["f"]

    def test_text_is_said_by_saying_nothing(self) -> None:
        assert body(response_format={"type": "text"}) == body()


class TestHeldSchema:
    def test_what_cannot_be_held_is_told(self) -> None:
        schema = {
            "$schema": "s", "type": "object", "title": "t", "$defs": {"d": {"type": "string", "maxLength": 3}},
            "properties": {
                "a": {"type": "integer", "description": "An a.", "minimum": 1, "maximum": 2},
                "b": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "object", "properties": {"c": {}}}},
                "e": {"oneOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "regex"}]},
            },
        }  # fmt: skip
        assert held_schema(schema) == {
            "type": "object", "title": "t", "$defs": {"d": {"type": "string", "description": "(maxLength: 3)"}},
            "properties": {
                "a": {"type": "integer", "description": "An a.\n\n(minimum: 1, maximum: 2)"},
                "b": {
                    "type": "array", "minItems": 1, "description": "(maxItems: 2)",
                    "items": {"type": "object", "properties": {"c": {}}, "additionalProperties": False},
                },
                "e": {"anyOf": [{"type": "string", "format": "date"},
                                {"type": "string", "description": "(format: regex)"}]},
            },
            "additionalProperties": False,
        }  # fmt: skip

    @pytest.mark.parametrize("inner", [{"type": "object"}, {"patternProperties": {}}, {"additionalProperties": True}])
    def test_open_objects_are_not_closed(self, inner: dict[str, Any]) -> None:
        for schema in ({"properties": {"a": inner}}, {"items": inner}, {"anyOf": [inner]}, {"$defs": {"a": inner}}):
            assert held_schema(schema) is None

    def test_too_deep_is_a_bad_request(self) -> None:
        deep: dict[str, Any] = {}
        for _ in range(100_000):
            deep = {"items": deep}
        with pytest.raises(InvalidRequest, match="nested too deeply"):
            held_schema(deep)
        while deep:  # taken apart by hand: the interpreter's own way of dropping it goes as deep as it is
            deep = deep.pop("items", {})


class TestThinking:
    @pytest.mark.parametrize(
        ("effort", "sent"),
        [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "xhigh")],
    )
    def test_effort_guides_the_newer_models(self, effort: str, sent: str) -> None:
        made = body(reasoning_effort=effort)
        assert made["output_config"] == {"effort": sent}
        assert made["thinking"] == {"type": "adaptive", "display": "summarized"}
        assert made["max_tokens"] > 4096

    def test_effort_that_a_model_lacks_is_the_next_below(self) -> None:
        assert body("claude-opus-4-6", reasoning_effort="xhigh")["output_config"] == {"effort": "high"}

    @pytest.mark.parametrize(("effort", "budget"), [("minimal", 1024), ("medium", 8192), ("xhigh", 24576)])
    def test_effort_is_a_budget_for_the_older(self, effort: str, budget: int) -> None:
        made = body(OLD, reasoning_effort=effort)
        assert made["thinking"] == {"type": "enabled", "budget_tokens": budget}
        assert made["max_tokens"] == 4096 + budget
        assert "output_config" not in made

    @pytest.mark.parametrize(("limit", "budget"), [(20_000, 15_000), (30_000, 16_384), (1366, 1024)])
    def test_budget_leaves_room_for_the_answer(self, limit: int, budget: int) -> None:
        made = body(OLD, reasoning_effort="high", max_tokens=limit)
        assert (made["thinking"]["budget_tokens"], made["max_tokens"]) == (budget, limit)

    @pytest.mark.parametrize(
        ("model", "fields"),
        [
            (OLDEST, {}),
            (OLD, {"max_tokens": 1000}),
            (OLD, {"temperature": 0.5}),
            (OLD, {"top_p": 0.9}),
            (OLD, {"top_k": 3}),
            (OLD, {"tools": [TOOL], "tool_choice": "required"}),
            (OLD, {"response_format": {"type": "json_object"}}),
            (OLD, {"messages": [*HI, assistant("It is")]}),
            (OLD, {"messages": [*HI, assistant(tool_calls=[call("1")]), result("1")]}),
            (NEW, {"thinking": {"type": "disabled"}}),
        ],
    )
    def test_effort_is_left_out_where_it_would_be_an_error(self, model: str, fields: dict[str, Any]) -> None:
        made, dropped = said(model, reasoning_effort="high", **fields)
        assert dropped == ("reasoning_effort",)
        assert made.get("thinking") == fields.get("thinking")
        assert refused(model, reasoning_effort="high", unsupported="error", **fields) == "reasoning_effort"

    def test_goes_on_where_the_turn_began_with_it(self) -> None:
        thoughts = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
        turns = [*HI, assistant(tool_calls=[call("1")], thinking_blocks=thoughts), result("1")]
        assert body(OLD, reasoning_effort="low", messages=turns)["thinking"]["type"] == "enabled"

    def test_newer_models_are_not_made_to_think_where_it_is_said_how_to_sample(self) -> None:
        made, dropped = said("claude-sonnet-4-6", reasoning_effort="low", temperature=0.2)
        assert (made["output_config"], made["temperature"], dropped) == ({"effort": "low"}, 0.2, ())
        assert "thinking" not in made
        assert "thinking" in body("claude-sonnet-4-6", reasoning_effort="low", temperature=1)

    @pytest.mark.parametrize(
        ("model", "sent"),
        [
            (OLDEST, {}),
            (OLD, {}),
            ("claude-opus-4-8", {}),
            (NEW, {"thinking": {"type": "disabled"}}),
            ("claude-fable-5", {"output_config": {"effort": "low"}}),
            ("claude-opus-5-5", {"output_config": {"effort": "low"}}),
        ],
    )
    def test_none_is_as_little_as_the_model_can(self, model: str, sent: dict[str, Any]) -> None:
        assert body(model, reasoning_effort="none") == {**body(model), **sent}

    def test_own_words_pass_with_room_for_the_answer(self) -> None:
        thinking = {"type": "enabled", "budget_tokens": 2000}
        assert body(thinking=thinking)["max_tokens"] == 6096
        assert body(thinking=thinking, max_tokens=2500)["max_tokens"] == 2500


@pytest.mark.parametrize(
    ("name", "thinks"),
    [
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "never"),
        ("claude-3-7-sonnet-latest", "budget"),
        ("claude-opus-4-20250514", "budget"),
        ("claude-opus-4-1@20250805", "budget"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "budget"),
        ("claude-opus-4-6", "off"),
        ("Claude-Sonnet-5", "on"),
        ("claude-sonnet-5-5", "always"),
        ("claude-of-tomorrow", "always"),
    ],
)
def test_models_are_known_by_a_part_of_their_names(name: str, thinks: str) -> None:
    assert abilities(name).thinks == thinks


def test_the_row_is_in_the_table() -> None:
    kind = KINDS["anthropic"]
    assert (kind.wire, kind.default_base_url, kind.env) == (
        "anthropic",
        "https://api.anthropic.com",
        "ANTHROPIC_API_KEY",
    )


def test_an_answer_comes_back_as_it_went() -> None:
    """Thoughts, text and calls of an answer, given back by the client as it was given them, are the blocks that came."""
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}},
    ]
    fold = Fold()
    told = json.dumps({"content": content, "stop_reason": "tool_use"}).encode()
    for event in provider().read_answer(asked(), told):
        fold.add(event)
    [choice] = fold.answer().choices
    blocks = [
        {"type": "redacted_thinking", "data": one.redacted}
        if one.redacted
        else {"type": "thinking", "thinking": one.text, "signature": one.signature}
        for one in choice.thoughts
    ]
    calls = [call(one.id, one.name, one.arguments) for one in choice.tool_calls]
    turn = assistant(choice.text, thinking_blocks=blocks, tool_calls=calls)
    assert messages(*HI, turn, result("toolu_1"))[1] == assistant(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = sorted({*CHAT_FIELDS, *FATES} - {"messages", "prompt"})
PART = st.one_of(
    JSON,
    st.builds(lambda kind, value: {"type": kind, kind: value}, st.sampled_from(["text", "image_url", "file"]), JSON),
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
    optional={"content": st.text(max_size=3) | st.lists(PART, max_size=3), "tool_calls": JSON, "tool_call_id": JSON,
              "thinking_blocks": JSON, "refusal": JSON},
)  # fmt: skip


@given(st.lists(TURN, min_size=1, max_size=5), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
       st.sampled_from([NEW, OLD, OLDEST, "any"]), st.sampled_from(["auto", "drop", "error"]))  # fmt: skip
def test_whatever_is_asked_is_said_or_refused(
    turns: list[dict[str, Any]], fields: dict[str, Any], model: str, unsupported: str
) -> None:
    try:
        made = body(model, unsupported=unsupported, messages=turns, **fields)
    except InvalidRequest:
        return
    roles = [one["role"] for one in made["messages"]]
    assert all(first != second for first, second in pairwise(roles))
    assert all(one["content"] for one in made["messages"])
