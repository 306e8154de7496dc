from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from trio_ai_proxy.chat.events import Embedded, Ended, Started, UsageReported
from trio_ai_proxy.chat.fields import CHAT_FIELDS, EMBEDDING_FIELDS, TEXT_FIELDS
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import InvalidRequest, UpstreamProtocolError
from trio_ai_proxy.framing.json_array import JSONArrayFramer
from trio_ai_proxy.framing.sse import SSEFramer
from trio_ai_proxy.providers.gemini import GeminiProvider
from trio_ai_proxy.providers.gemini_request import FATES, TEXT_FATES
from trio_ai_proxy.providers.gemini_vectors import EMBEDDING_FATES
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.settings import AuthSettings, ProviderSettings, Secret

if TYPE_CHECKING:
    from trio_ai_proxy.providers.base import UpstreamRequest

KEY = Secret("AIzaSy-1234567890", "a test")
PNG = "iVBORw0KGgo="


def provider(**settings: Any) -> GeminiProvider:
    settings.setdefault("api_key", KEY)
    return GeminiProvider(ProviderSettings(name="g", kind="gemini", **settings), KINDS["gemini"])


def prepare(
    *messages: dict[str, Any],
    stream: bool = False,
    model: str = "gemini-2.5-flash",
    operation: Any = "chat",
    unsupported: Any = "auto",
    **fields: Any,
) -> UpstreamRequest:
    if operation == "chat":
        fields["messages"] = list(messages) or [{"role": "user", "content": "hi"}]
    request = ChatRequest(operation, "asked", stream, False, {"model": "asked", **fields}, unsupported)
    return provider().prepare(request, model=model, stream=stream)


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return json.loads(prepare(*messages, **fields).body)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def called(*calls: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    made = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]
    return {"role": "assistant", "content": None, "tool_calls": made, **more}


def answered(call_id: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


TOOL = {"type": "function", "function": {
    "name": "weather", "description": "Tells it.", "strict": True,
    "parameters": {"$schema": "x", "type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False},
}}  # fmt: skip


class TestAddress:
    def test_names_the_model_and_the_method(self) -> None:
        base = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash"
        assert prepare().url == f"{base}:generateContent"
        assert prepare(stream=True).url == f"{base}:streamGenerateContent?alt=sse"
        assert prepare(operation="embeddings", input="a").url == f"{base}:batchEmbedContents"
        assert prepare(operation="completions", prompt="a").url == f"{base}:generateContent"

    @pytest.mark.parametrize(
        ("model", "path"),
        [
            ("models/gemma-3-27b-it", "models/gemma-3-27b-it"),
            ("tunedModels/mine-1", "tunedModels/mine-1"),
            ("../../v1/x?y#z", "models/..%2F..%2Fv1%2Fx%3Fy%23z"),
            ("models/../x", "models/..%2Fx"),
        ],
    )
    def test_model_is_escaped(self, model: str, path: str) -> None:
        expected = f"https://generativelanguage.googleapis.com/v1beta/{path}:generateContent"
        assert prepare(model=model).url == expected

    def test_is_not_the_requests_to_choose(self) -> None:
        with pytest.raises(InvalidRequest, match="base_url"):
            prepare(base_url="http://evil")

    def test_key_is_in_its_header_and_not_in_the_address(self) -> None:
        request = prepare(stream=True)
        headers = dict(request.headers)
        assert headers[b"x-goog-api-key"] == b"AIzaSy-1234567890"
        assert b"authorization" not in headers
        assert headers[b"accept"] == b"text/event-stream"
        assert "AIza" not in request.url

    def test_auth_takes_the_place_of_the_key(self) -> None:
        auth = AuthSettings(param_name="key", param_value=Secret("k&1", "a test"), param_location="query")
        request = provider(api_key=None, auth=auth, base_url="http://h/x").prepare(
            ChatRequest("chat", "m", True, False, {"messages": [user("a")]}), model="m", stream=True
        )
        assert request.url == "http://h/x/v1beta/models/m:streamGenerateContent?key=k%261&alt=sse"

    def test_table_builds_it(self) -> None:
        built = build_provider(ProviderSettings(name="g", kind="gemini", api_key=KEY))
        assert isinstance(built, GeminiProvider)
        assert built.for_model("anything") is built
        assert built.authority is None


class TestTurns:
    def test_roles_are_two_and_the_system_stands_apart(self) -> None:
        sent = body(
            {"role": "system", "content": "Be brief."},
            user("a"),
            user([{"type": "text", "text": "b"}]),
            {"role": "developer", "content": "And kind."},
            {"role": "assistant", "content": "c"},
            {"role": "assistant", "content": None, "refusal": "no"},
            user("d"),
        )
        assert sent == {
            "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "And kind."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
                {"role": "model", "parts": [{"text": "c"}, {"text": "no"}]},
                {"role": "user", "parts": [{"text": "d"}]},
            ],
        }

    def test_system_alone_is_what_the_user_says(self) -> None:
        assert body({"role": "system", "content": "Sing."}) == {
            "contents": [{"role": "user", "parts": [{"text": "Sing."}]}]
        }

    def test_gemma_has_no_place_for_the_system(self) -> None:
        sent = body({"role": "system", "content": "Sing."}, user("a"), model="gemma-3-27b-it")
        assert sent == {"contents": [{"role": "user", "parts": [{"text": "Sing."}, {"text": "a"}]}]}

    def test_prompt_of_a_completion_is_the_users(self) -> None:
        sent = body(operation="completions", prompt="Once", max_tokens=3)
        assert sent == {
            "contents": [{"role": "user", "parts": [{"text": "Once"}]}],
            "generationConfig": {"maxOutputTokens": 3},
        }

    def test_calls_and_their_answers(self) -> None:
        sent = body(
            user("a"),
            called(("c1", "weather", '{"city": "Łódź"}'), ("c2", "clock", "")),
            answered("c2", "12:00"),
            answered("c1", [{"type": "text", "text": '{"id": 12345678901234567890}'}]),
            user("b"),
        )
        assert sent["contents"][1:] == [
            {"role": "model", "parts": [
                {"functionCall": {"name": "weather", "args": {"city": "Łódź"}, "id": "c1"}},
                {"functionCall": {"name": "clock", "args": {}, "id": "c2"}},
            ]},
            {"role": "user", "parts": [
                {"functionResponse": {"name": "weather", "response": {"output": '{"id": 12345678901234567890}'}, "id": "c1"}},
                {"functionResponse": {"name": "clock", "response": {"output": "12:00"}, "id": "c2"}},
            ]},
            {"role": "user", "parts": [{"text": "b"}]},
        ]  # fmt: skip

    def test_older_form_of_calls(self) -> None:
        sent = body(
            user("a"),
            {"role": "assistant", "content": None, "function_call": {"name": "clock", "arguments": "{}"}},
            {"role": "function", "name": "clock", "content": "12"},
        )
        assert sent["contents"][2]["parts"][0]["functionResponse"]["name"] == "clock"

    def test_answer_to_no_call_is_refused(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            body(user("a"), answered("c9", "x"))
        assert caught.value.param == "messages.1.tool_call_id"

    def test_arguments_must_be_an_object(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            body(user("a"), called(("c1", "f", "[1]")), answered("c1", "x"))
        assert caught.value.param == "messages.1.tool_calls.0.function.arguments"

    def test_image_of_a_tool_stands_in_its_answer(self) -> None:
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
        sent = body(user("a"), called(("c1", "draw", "{}")), answered("c1", [image]))
        (part,) = sent["contents"][2]["parts"]
        assert part["functionResponse"]["parts"] == [{"inlineData": {"mimeType": "image/png", "data": PNG}}]


class TestSignatures:
    def signed(self, signature: str) -> dict[str, Any]:
        message = called(("c1", "f", "{}"), ("c2", "f", "{}"))
        message["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": signature}}
        return message

    def parts(self, model: str, *messages: dict[str, Any]) -> list[str | None]:
        sent = body(*messages, model=model)
        return [
            part.get("thoughtSignature")
            for content in sent["contents"] for part in content["parts"] if "functionCall" in part
        ]  # fmt: skip

    def test_come_back_on_the_call(self) -> None:
        talk = [user("a"), self.signed("c2ln"), answered("c1", "x"), answered("c2", "y")]
        for model in ("gemini-2.5-flash", "gemini-3-pro-preview"):
            assert self.parts(model, *talk) == ["c2ln", None]

    def test_where_they_were_lost_gemini_3_is_told_so_for_the_turn_under_way(self) -> None:
        step = [called(("c1", "f", "{}"), ("c2", "f", "{}")), answered("c1", "x"), answered("c2", "y")]
        talk = [user("a"), *step, {"role": "assistant", "content": "b"}, user("c"), *step]
        word = "skip_thought_signature_validator"
        assert self.parts("gemini-3-flash-preview", *talk) == [None, None, word, None]
        assert self.parts("gemini-flash-latest", *talk) == [None, None, word, None]
        assert self.parts("gemini-2.5-pro", *talk) == [None] * 4

    def test_seal_of_a_text_comes_back_on_its_last_part_and_others_are_not_ours(self) -> None:
        blocks = [
            {"type": "thinking", "thinking": "", "signature": "EqQBfromAnotherProvider"},
            {"type": "thinking", "thinking": "two and two", "signature": "gemini:c2ln"},
        ]
        sent = body(user("a"), {"role": "assistant", "content": "4", "thinking_blocks": blocks}, user("b"))
        assert sent["contents"][1] == {"role": "model", "parts": [{"text": "4", "thoughtSignature": "c2ln"}]}
        sent = body(user("a"), {"role": "assistant", "content": "4", "thinking_blocks": blocks[:1]}, user("b"))
        assert sent["contents"][1] == {"role": "model", "parts": [{"text": "4"}]}


class TestParts:
    @pytest.mark.parametrize(
        ("part", "said"),
        [
            ({"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{PNG}"}},
             {"inlineData": {"mimeType": "image/webp", "data": PNG}}),
            ({"type": "image_url", "image_url": {"url": "https://h.example/a.JPG?x=1"}},
             {"fileData": {"fileUri": "https://h.example/a.JPG?x=1", "mimeType": "image/jpeg"}}),
            ({"type": "image_url", "image_url": {"url": "gs://bucket/a"}}, {"fileData": {"fileUri": "gs://bucket/a"}}),
            ({"type": "input_audio", "input_audio": {"data": PNG, "format": "mp3"}},
             {"inlineData": {"mimeType": "audio/mp3", "data": PNG}}),
            ({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PNG}", "filename": "a.pdf"}},
             {"inlineData": {"mimeType": "application/pdf", "data": PNG}}),
            ({"type": "file", "file": {"file_id": "files/abc-1"}},
             {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc-1"}}),
            ({"type": "file", "file": {"file_id": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
             {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}}),
            ({"type": "file", "file": {"file_id": "gs://b/a.pdf"}},
             {"fileData": {"fileUri": "gs://b/a.pdf", "mimeType": "application/pdf"}}),
        ],
    )  # fmt: skip
    def test_are_bytes_or_addresses(self, part: dict[str, Any], said: dict[str, Any]) -> None:
        assert body(user([part]))["contents"][0]["parts"] == [said]

    @pytest.mark.parametrize(
        "part",
        [
            {"type": "image_url", "image_url": {"url": "http://h.example/a.png"}},
            {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
            {"type": "image_url", "image_url": {"url": "https://[x/"}},
            {"type": "file", "file": {"file_id": "file-openai"}},
            {"type": "file", "file": {"file_id": "files/../x"}},
        ],
    )
    def test_that_cannot_be_sent_are_named(self, part: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest) as caught:
            body(user([{"type": "text", "text": "see"}, part]))
        assert caught.value.param == "messages.0.content.1"
        assert caught.value.code == "unsupported_parameter"


class TestConfig:
    def test_sampling(self) -> None:
        sent = body(
            temperature=0.5, top_p=0.9, top_k=3, max_completion_tokens=7, stop="x", n=2, seed=5, presence_penalty=1,
            frequency_penalty=-1, logprobs=True, top_logprobs=2, user="u", metadata={"a": "b"},
        )  # fmt: skip
        assert sent["generationConfig"] == {
            "temperature": 0.5, "topP": 0.9, "topK": 3, "maxOutputTokens": 7, "stopSequences": ["x"], "candidateCount": 2,
            "seed": 5, "presencePenalty": 1, "frequencyPenalty": -1, "responseLogprobs": True, "logprobs": 2,
        }  # fmt: skip

    def test_seed_is_made_to_fit(self) -> None:
        first, second = body(seed=2**40 + 7), body(seed=2**40 + 7)
        assert first == second
        assert abs(first["generationConfig"]["seed"]) < 2**31

    def test_answer_in_json(self) -> None:
        assert body(response_format={"type": "json_object"})["generationConfig"] == {
            "responseMimeType": "application/json"
        }
        schema = {"type": "object", "$defs": {"a": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a"}}}
        sent = body(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
        assert sent["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": schema}

    @pytest.mark.parametrize(
        ("model", "effort", "config"),
        [
            ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
            ("gemini-2.5-pro", "low", {"includeThoughts": True, "thinkingBudget": 1024}),
            ("gemini-2.5-pro", "medium", {"includeThoughts": True, "thinkingBudget": 8192}),
            ("gemini-2.5-pro", "xhigh", {"includeThoughts": True, "thinkingBudget": 24576}),
            ("gemini-3-pro-preview", "minimal", {"includeThoughts": True, "thinkingLevel": "LOW"}),
            ("gemini-3-flash-preview", "minimal", {"includeThoughts": True, "thinkingLevel": "MINIMAL"}),
            ("gemini-3.1-flash-lite", "none", {"thinkingLevel": "MINIMAL"}),
            ("gemini-pro-latest", "high", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ],
    )
    def test_effort_is_a_budget_or_a_level(self, model: str, effort: str, config: dict[str, Any]) -> None:
        assert body(model=model, reasoning_effort=effort)["generationConfig"] == {"thinkingConfig": config}

    def test_effort_of_a_model_that_does_not_think_is_left_out_and_said(self) -> None:
        request = prepare(model="gemini-2.0-flash", reasoning_effort="low")
        assert request.dropped == ("reasoning_effort",)
        assert b"thinking" not in request.body
        with pytest.raises(InvalidRequest):
            prepare(model="gemini-2.0-flash", reasoning_effort="low", unsupported="error")

    @pytest.mark.parametrize(
        ("fields", "config"),
        [
            ({"thinking": {"type": "enabled", "budget_tokens": 99}}, {"includeThoughts": True, "thinkingBudget": 99}),
            ({"thinking": {"type": "disabled"}}, {"thinkingBudget": 0}),
            ({"thinking_config": {"thinking_level": "low"}}, {"thinkingLevel": "low"}),
            ({"extra_body": {"google": {"thinking_config": {"include_thoughts": True}}}}, {"includeThoughts": True}),
        ],
    )
    def test_thinking_in_other_forms(self, fields: dict[str, Any], config: dict[str, Any]) -> None:
        assert body(reasoning_effort="high", **fields)["generationConfig"] == {"thinkingConfig": config}

    def test_googles_own_fields_pass(self) -> None:
        setting = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}
        assert body(safety_settings=[setting], extra_body={"google": {"cached_content": "cachedContents/1"}}) == {
            "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
            "safetySettings": [setting],
            "cachedContent": "cachedContents/1",
        }

    def test_nothing_in_extra_body_is_lost_in_silence(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            prepare(extra_body={"google": {"labels": {}}})
        assert caught.value.param == "extra_body.google.labels"
        assert prepare(extra_body={"x": 1}, unsupported="drop").dropped == ("extra_body.x",)

    @pytest.mark.parametrize(("tier", "said"), [("default", "standard"), ("flex", "flex"), ("priority", "priority")])
    def test_tier(self, tier: str, said: str) -> None:
        assert body(service_tier=tier)["serviceTier"] == said

    def test_tier_that_google_does_not_sell_is_left_out_and_said(self) -> None:
        assert "serviceTier" not in body(service_tier="auto")
        assert prepare(service_tier="scale").dropped == ("service_tier",)


class TestTools:
    def test_are_declared_with_their_schema_as_it_is(self) -> None:
        sent = body(tools=[TOOL, {"type": "function", "function": {"name": "clock"}}])
        assert sent["tools"] == [{"functionDeclarations": [
            {"name": "weather", "description": "Tells it.", "parametersJsonSchema": TOOL["function"]["parameters"]},
            {"name": "clock"},
        ]}]  # fmt: skip
        assert "toolConfig" not in sent

    @pytest.mark.parametrize(
        ("choice", "config"),
        [
            ("none", {"mode": "NONE"}),
            ("required", {"mode": "ANY"}),
            (
                {"type": "function", "function": {"name": "weather"}},
                {"mode": "ANY", "allowedFunctionNames": ["weather"]},
            ),
        ],
    )
    def test_choice(self, choice: Any, config: dict[str, Any]) -> None:
        assert body(tools=[TOOL], tool_choice=choice)["toolConfig"] == {"functionCallingConfig": config}

    def test_choice_without_tools(self) -> None:
        assert "toolConfig" not in body(tool_choice="none")
        with pytest.raises(InvalidRequest, match='no "tools"'):
            body(tool_choice="required")

    def test_one_call_at_a_time_cannot_be_had(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            body(tools=[TOOL], parallel_tool_calls=False)
        assert caught.value.param == "parallel_tool_calls"
        assert "parallel_tool_calls" in prepare(tools=[TOOL], parallel_tool_calls=False, unsupported="drop").dropped

    def test_web_search(self) -> None:
        request = prepare(web_search_options={"search_context_size": "low"})
        assert json.loads(request.body)["tools"] == [{"googleSearch": {}}]
        assert request.dropped == ("web_search_options.search_context_size",)
        with pytest.raises(InvalidRequest) as caught:
            prepare(web_search_options={"user_location": {"type": "approximate"}})
        assert caught.value.param == "web_search_options.user_location"


class TestFates:
    def test_every_field_is_answered_for(self) -> None:
        """What is translated is a field of OpenAI's; what is passed is none."""
        for fates, fields in ((FATES, CHAT_FIELDS), (TEXT_FATES, TEXT_FIELDS), (EMBEDDING_FATES, EMBEDDING_FIELDS)):
            for name, fate in fates.items():
                assert (name in fields) == (fate != "passed") or name == "thinking"

    def test_fields_without_a_word_are_left_out_or_refused(self) -> None:
        request = prepare(user="u", store=True, verbosity="low", prompt_cache_key="k", safety_identifier="s")
        assert set(request.dropped) == {"user", "store", "verbosity", "prompt_cache_key", "safety_identifier"}
        for name, value in (("logit_bias", {"1": 2}), ("audio", {}), ("modalities", ["audio"]), ("unheard_of", 1)):
            with pytest.raises(InvalidRequest) as caught:
                prepare(**{name: value})
            assert caught.value.param == name


class TestEmbeddings:
    def test_are_asked_for_in_one_batch(self) -> None:
        sent = body(
            operation="embeddings", input=["a", "b"], dimensions=3, encoding_format="base64", task_type="CLUSTERING",
            model="gemini-embedding-001",
        )  # fmt: skip
        assert sent == {"requests": [
            {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": text}]}, "outputDimensionality": 3,
             "taskType": "CLUSTERING"}
            for text in "ab"
        ]}  # fmt: skip

    def test_answer(self) -> None:
        request = ChatRequest("embeddings", "m", False, False, {"input": ["a", "b"]})
        answer = {"embeddings": [{"values": [0.5, 1]}, {"values": [2.0]}], "usageMetadata": {"promptTokenCount": 4}}
        assert provider().read_answer(request, json.dumps(answer).encode()) == [
            Started("", ""), Embedded([0.5, 1], 0), Embedded([2.0], 1),
            UsageReported(TokenUsage(prompt_tokens=4, total_tokens=4)), Ended(),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "answer", [b"", b"{}", b"[]", b'{"embeddings":[{}]}', b'{"embeddings":[{"values":["a"]}]}', b'{"embedding":3}']
    )
    def test_what_is_no_answer_is_refused(self, answer: bytes) -> None:
        with pytest.raises(UpstreamProtocolError):
            provider().read_answer(ChatRequest("embeddings", "m", False, False, {"input": "a"}), answer)

    def test_dimensions_are_a_number(self) -> None:
        with pytest.raises(InvalidRequest, match="dimensions"):
            body(operation="embeddings", input="a", dimensions="x")


class TestStream:
    def test_form_is_chosen_by_what_the_answer_says_it_is(self) -> None:
        assert isinstance(provider().framer(), SSEFramer)
        assert isinstance(provider().framer("text/event-stream"), SSEFramer)
        assert isinstance(provider().framer("application/json"), JSONArrayFramer)
        assert provider().stream_types == ("text/event-stream", "application/json")


class TestErrors:
    def read(self, status: int, payload: Any, headers: dict[str, str] | None = None) -> Any:
        return provider().read_error(status, headers or {}, json.dumps(payload).encode())

    def test_keep_googles_words(self) -> None:
        payload = {"error": {"code": 400, "message": "Bad field.", "status": "INVALID_ARGUMENT", "details": [
            {"@type": "type.googleapis.com/google.rpc.BadRequest",
             "fieldViolations": [{"field": "contents[0]", "description": "empty"}]},
        ]}}  # fmt: skip
        for shape in (payload, [payload]):
            error = self.read(400, shape)
            assert (error.message, error.type, error.code, error.param, error.status) == (
                "Bad field.", "INVALID_ARGUMENT", "INVALID_ARGUMENT", "contents[0]", 400,
            )  # fmt: skip

    def test_say_when_to_try_again(self) -> None:
        details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]
        payload = {"error": {"code": 429, "message": "Quota.", "status": "RESOURCE_EXHAUSTED", "details": details}}
        assert self.read(429, payload).retry_after == 34.5
        assert self.read(429, payload, {"Retry-After": "7"}).retry_after == 7

    def test_bad_key_is_our_fault_and_not_the_clients(self) -> None:
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
        message = "API key not valid: AIzaSy-1234567890."
        payload = {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": details}}
        error = self.read(400, payload)
        assert (error.status, error.upstream_status, error.code) == (502, 400, "API_KEY_INVALID")
        assert error.message == "API key not valid: ***."

    @pytest.mark.parametrize(
        "payload", [None, [], [1], {"error": "text"}, {"error": {"message": "m"}}, "x", {"error": None}]
    )
    def test_of_any_other_shape_are_read_as_well(self, payload: Any) -> None:
        assert self.read(500, payload).status == 502
