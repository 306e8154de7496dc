from __future__ import annotations

import json
from typing import Any

import pytest
from support.bedrock import (
    CALLED,
    CLAUDE,
    FORM,
    HELLO,
    LLAMA,
    NOVA,
    OPUS,
    OSS,
    RESULT,
    SCHEMA,
    SPEC,
    WEATHER,
    asked,
    body,
    prepare,
    user,
)

from trio_ai_proxy.chat.fields import CHAT_FIELDS, EMBEDDING_FIELDS, OURS, TEXT_FIELDS
from trio_ai_proxy.errors import InvalidRequest
from trio_ai_proxy.providers.bedrock_embeddings import EMBEDDING_FATES
from trio_ai_proxy.providers.bedrock_request import FATES, answer_tool_of


class TestFates:
    def test_every_field_of_openai_that_is_not_named_is_unsupported_on_purpose(self) -> None:
        unsaid = (set(CHAT_FIELDS) | set(TEXT_FIELDS)) - set(FATES) - OURS
        assert unsaid == {
            "frequency_penalty", "presence_penalty", "logit_bias", "n", "seed", "user", "verbosity", "logprobs",
            "top_logprobs", "modalities", "audio", "web_search_options", "prediction", "store", "safety_identifier",
            "prompt_cache_key", "prompt_cache_retention", "best_of", "echo", "suffix",
        }  # fmt: skip
        assert set(EMBEDDING_FIELDS) - set(EMBEDDING_FATES) == {"user"}

    @pytest.mark.parametrize("field", [{"n": 2}, {"logprobs": True}, {"presence_penalty": 0.5}, {"own": 1}])
    def test_what_changes_the_answer_is_refused_by_name(self, field: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest) as caught:
            prepare(**field)
        assert caught.value.param == next(iter(field))

    def test_what_does_not_is_left_out_and_named(self) -> None:
        sent = prepare(seed=1, user="u", store=True, n=1)
        assert sent.dropped == ("seed", "user", "store")

    def test_neutral_values_are_no_matter(self) -> None:
        assert prepare(n=1, logprobs=False, presence_penalty=0, parallel_tool_calls=True).dropped == ()


class TestSampling:
    def test_is_said(self) -> None:
        given = body(max_tokens=9, max_completion_tokens=7, temperature=0, top_p=0.5, stop=["a", "", "b"])
        config = {"maxTokens": 7, "temperature": 0, "topP": 0.5, "stopSequences": ["a", "b"]}
        assert given["inferenceConfig"] == config

    def test_native_words_pass(self) -> None:
        guard = {"guardrailIdentifier": "g", "guardrailVersion": "1"}
        given = body(
            guardrailConfig=guard, performanceConfig={"latency": "optimized"}, top_k=5, thinking={"type": "disabled"},
            additionalModelRequestFields={"x": 1},
        )  # fmt: skip
        assert given["guardrailConfig"] == guard
        assert given["performanceConfig"] == {"latency": "optimized"}
        assert given["additionalModelRequestFields"] == {"top_k": 5, "thinking": {"type": "disabled"}, "x": 1}

    def test_top_k_has_its_own_place_at_nova(self) -> None:
        assert body(model=NOVA, top_k=5)["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 5}}

    def test_additional_fields_must_be_an_object(self) -> None:
        with pytest.raises(InvalidRequest):
            prepare(additionalModelRequestFields=1)

    def test_metadata_goes_along_where_it_can_be_said(self) -> None:
        assert body(metadata={"team": "a b"})["requestMetadata"] == {"team": "a b"}
        assert prepare(metadata={"team": "é"}).dropped == ("metadata",)
        assert prepare(metadata={str(n): "x" for n in range(17)}).dropped == ("metadata",)

    @pytest.mark.parametrize(
        ("tier", "said", "dropped"),
        [("auto", None, ()), ("flex", {"type": "flex"}, ()), ("scale", None, ("service_tier",))],
    )
    def test_tier_goes_along(self, tier: str, said: Any, dropped: tuple[str, ...]) -> None:
        sent = prepare(service_tier=tier)
        assert (json.loads(sent.body).get("serviceTier"), sent.dropped) == (said, dropped)


class TestTools:
    def config(self, **given: Any) -> Any:
        return body(**{"tools": [WEATHER], **given}).get("toolConfig")

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ("auto", {"tools": [SPEC], "toolChoice": {"auto": {}}}),
            ("required", {"tools": [SPEC], "toolChoice": {"any": {}}}),
            (
                {"type": "function", "function": {"name": "get_weather"}},
                {"tools": [SPEC], "toolChoice": {"tool": {"name": "get_weather"}}},
            ),
            (None, {"tools": [SPEC]}),
            ("none", None),
        ],
    )
    def test_choice_is_said(self, choice: Any, expected: Any) -> None:
        assert self.config(tool_choice=choice) == expected

    def test_older_form_is_read(self) -> None:
        assert self.config(tools=None, functions=[WEATHER["function"]]) == {"tools": [SPEC]}

    def test_schema_is_an_object_s(self) -> None:
        bare = {"type": "function", "function": {"name": "f", "description": " "}}
        loose = {"type": "function", "function": {"name": "g", "description": "d", "parameters": {"properties": {}}}}
        assert self.config(tools=[bare, loose])["tools"] == [
            {"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
            {
                "toolSpec": {
                    "name": "g",
                    "description": "d",
                    "inputSchema": {"json": {"type": "object", "properties": {}}},
                }
            },
        ]

    @pytest.mark.parametrize(("model", "strict"), [(OPUS, True), (CLAUDE, None), (OSS, True), (NOVA, None)])
    def test_strict_is_said_where_it_is_known(self, model: str, strict: Any) -> None:
        tool = {"type": "function", "function": {"name": "f", "strict": True}}
        assert self.config(tools=[tool], model=model)["tools"][0]["toolSpec"].get("strict") is strict
        dropped = () if strict else ("tools.0.function.strict",)
        assert prepare(tools=[tool], model=model).dropped == dropped
        if dropped:
            with pytest.raises(InvalidRequest) as caught:
                prepare(tools=[tool], model=model, unsupported="error")
            assert caught.value.param == dropped[0]

    @pytest.mark.parametrize("given", [{}, {"tools": [WEATHER], "tool_choice": "none"}])
    def test_conversation_with_calls_has_their_tools(self, given: dict[str, Any]) -> None:
        config = self.config(**{"tools": None, "messages": [*HELLO, CALLED, RESULT], **given})
        assert [tool["toolSpec"]["name"] for tool in config["tools"]] == ["get_weather"]
        assert "toolChoice" not in config

    def test_one_call_at_a_time_is_claude_s_word(self) -> None:
        given = body(tools=[WEATHER], parallel_tool_calls=False, tool_choice="auto")
        assert given["toolConfig"] == {"tools": [SPEC]}
        assert given["additionalModelRequestFields"] == {
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}
        }
        forced = body(tools=[WEATHER], parallel_tool_calls=False, tool_choice="required")
        assert forced["additionalModelRequestFields"] == {"tool_choice": {"disable_parallel_tool_use": True}}

    def test_one_call_at_a_time_is_refused_elsewhere(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            prepare(model=LLAMA, tools=[WEATHER], parallel_tool_calls=False)
        assert caught.value.param == "parallel_tool_calls"
        assert prepare(model=LLAMA, parallel_tool_calls=False).dropped == ()


class TestAnswerInAForm:
    def test_schema_is_kept_by_a_tool_that_must_be_called(self) -> None:
        config = body(response_format=FORM)["toolConfig"]
        [tool] = config["tools"]
        assert (tool["toolSpec"]["name"], tool["toolSpec"]["inputSchema"]) == ("json_answer", {"json": SCHEMA})
        assert config["toolChoice"] == {"tool": {"name": "json_answer"}}
        assert answer_tool_of(asked(response_format=FORM)) == "json_answer"

    def test_client_s_tools_may_be_called_instead(self) -> None:
        config = body(response_format=FORM, tools=[WEATHER])["toolConfig"]
        assert [tool["toolSpec"]["name"] for tool in config["tools"]] == ["get_weather", "json_answer"]
        assert config["toolChoice"] == {"any": {}}

    def test_who_must_call_a_tool_gives_no_answer_in_text(self) -> None:
        config = body(response_format=FORM, tools=[WEATHER], tool_choice="required")["toolConfig"]
        assert config == {"tools": [SPEC], "toolChoice": {"any": {}}}

    def test_name_of_the_tool_is_none_of_the_client_s(self) -> None:
        tool = {"type": "function", "function": {"name": "json_answer"}}
        request = asked(response_format=FORM, tools=[tool, "x", {"function": 1}])
        assert answer_tool_of(request) == "json_answer_"
        assert answer_tool_of(asked(response_format=FORM, tools=3)) == "json_answer"

    @pytest.mark.parametrize("given", [{"model": LLAMA}, {"model": OPUS, "reasoning_effort": "low"}])
    def test_schema_itself_is_said_where_no_tool_can_be_forced(self, given: dict[str, Any]) -> None:
        sent = body(response_format=FORM, **given)
        assert "toolConfig" not in sent
        form = sent["outputConfig"]["textFormat"]
        assert form["type"] == "json_schema"
        assert form["structure"]["jsonSchema"]["name"] == "thing"
        assert json.loads(form["structure"]["jsonSchema"]["schema"]) == SCHEMA

    def test_any_object_is_asked_for_in_words(self) -> None:
        given = body(response_format={"type": "json_object"})
        assert "JSON object" in given["system"][0]["text"]
        assert answer_tool_of(asked(response_format={"type": "json_object"})) == ""

    def test_plain_text_is_nothing(self) -> None:
        assert body(response_format={"type": "text"}) == {"messages": [user({"text": "Hello"})]}
