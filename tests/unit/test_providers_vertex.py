from __future__ import annotations

import json
from typing import Any

import pytest
from support.google_key import pem, service_account
from support.recordings import recordings

from trio_ai_proxy.chat.events import Embedded, Ended, Started, TextDelta, UsageReported
from trio_ai_proxy.chat.request import ChatRequest
from trio_ai_proxy.chat.usage import TokenUsage
from trio_ai_proxy.errors import ConfigError, InvalidRequest
from trio_ai_proxy.framing.frame import Frame
from trio_ai_proxy.providers.base import UpstreamRequest
from trio_ai_proxy.providers.google_auth import MachineAccount, ServiceAccount
from trio_ai_proxy.providers.table import KINDS, build_provider
from trio_ai_proxy.providers.vertex import VertexProvider
from trio_ai_proxy.settings import AuthSettings, ProviderSettings, Secret

PLACE = "https://europe-west4-aiplatform.googleapis.com/v1/projects/my-project/locations/europe-west4"
TOKENS = "https://oauth2.googleapis.com/token"


def provider(**settings: Any) -> VertexProvider:
    given = {"project": "my-project", "location": "europe-west4", **settings}
    return VertexProvider(ProviderSettings(name="v", kind="vertex", **given), KINDS["vertex"])


def asked(operation: Any = "chat", **fields: Any) -> ChatRequest:
    if operation == "chat":
        fields = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return ChatRequest(operation, "asked", False, False, {"model": "asked", **fields})


def prepare(
    model: str, request: ChatRequest | None = None, *, stream: bool = False, **settings: Any
) -> UpstreamRequest:
    return provider(**settings).for_model(model).prepare(request or asked(), model=model, stream=stream)


def sent(request: UpstreamRequest) -> dict[str, Any]:
    return json.loads(request.body)


class TestPlace:
    @pytest.mark.parametrize(
        ("location", "host"),
        [
            ("global", "aiplatform.googleapis.com"),
            ("us-central1", "us-central1-aiplatform.googleapis.com"),
            ("eu", "aiplatform.eu.rep.googleapis.com"),
        ],
    )
    def test_location_picks_the_host(self, location: str, host: str) -> None:
        expected = (
            f"https://{host}/v1/projects/my-project/locations/{location}/publishers/google/models/m:generateContent"
        )
        assert prepare("m", location=location).url == expected

    def test_base_url_picks_another(self) -> None:
        url = prepare("m", base_url="http://h:1/x", stream=True).url
        assert url == (
            "http://h:1/x/v1/projects/my-project/locations/europe-west4/publishers/google/models/m"
            ":streamGenerateContent?alt=sse"
        )

    def test_project_is_the_configured_one_else_the_environments_else_the_keys(self) -> None:
        environment = {"GOOGLE_CLOUD_PROJECT": "from-environment"}
        key = service_account(TOKENS)
        assert "/my-project/" in prepare("m", environment=environment, service_account=key).url
        assert "/from-environment/" in prepare("m", project=None, environment=environment, service_account=key).url
        assert "/key-project/" in prepare("m", project=None, service_account=key).url

    def test_what_lacks_is_named(self) -> None:
        with pytest.raises(ConfigError, match="needs project and location"):
            provider(project=None, location=None, base_url="http://h")
        with pytest.raises(ConfigError, match="location"):
            provider(location="evil.example/")

    def test_key_without_a_project_stands_for_one(self) -> None:
        url = prepare("gemini-2.5-pro", project=None, location=None, api_key=Secret("AIza-123", "a test")).url
        assert url == "https://aiplatform.googleapis.com/v1/publishers/google/models/gemini-2.5-pro:generateContent"

    @pytest.mark.parametrize(
        ("model", "path"),
        [
            ("google/gemini-2.5-pro", "/publishers/google/models/gemini-2.5-pro:generateContent"),
            ("publishers/google/models/gemini-2.5-pro", "/publishers/google/models/gemini-2.5-pro:generateContent"),
            ("models/gemini-2.5-pro", "/publishers/google/models/gemini-2.5-pro:generateContent"),
            ("endpoints/123", "/endpoints/123:generateContent"),
            ("endpoints/../x?", "/endpoints/..%2Fx%3F:generateContent"),
            ("..", "/publishers/google/models/..:generateContent"),
            ("a b/../c", "/publishers/google/models/a%20b%2F..%2Fc:generateContent"),
        ],
    )
    def test_model_is_escaped(self, model: str, path: str) -> None:
        assert prepare(model).url == PLACE + path


class TestCredential:
    def test_is_fetched_where_none_is_given(self) -> None:
        assert isinstance(provider().authority, MachineAccount)
        assert isinstance(provider(service_account=service_account(TOKENS)).authority, ServiceAccount)

    def test_metadata_server_is_where_the_environment_says(self) -> None:
        authority = provider(environment={"GCE_METADATA_HOST": "127.0.0.1:9"}).authority
        assert authority is not None
        step = authority.step(0.0)
        assert isinstance(step, UpstreamRequest)
        assert step.url.startswith("http://127.0.0.1:9/")

    def test_is_not_fetched_where_one_is_given(self) -> None:
        with_key = provider(api_key=Secret("AIza-123", "a test"))
        assert with_key.authority is None
        assert dict(with_key.prepare(asked(), model="m", stream=False).headers)[b"x-goog-api-key"] == b"AIza-123"
        auth = AuthSettings(header_name="Authorization", header_value=Secret("Bearer x", "a test"))
        assert provider(auth=auth).authority is None

    def test_is_one_for_all_models(self) -> None:
        account = provider()
        views = [account.for_model(model) for model in ("gemini-2.5-pro", "claude-x", "mistral-y", "meta/z")]
        assert all(view.authority is account.authority for view in views)
        assert account.for_model("claude-other") is views[1]

    def test_neither_key_nor_token_is_shown(self) -> None:
        account = provider(service_account=service_account(TOKENS))
        assert account.authority is not None
        account.authority.accept(200, {}, b'{"access_token":"ya29.secret","expires_in":3600}', 0.0)
        line = pem().split("\n")[1]
        said = json.dumps({"error": {"message": f"ya29.secret {line}", "status": "INTERNAL", "code": 500}}).encode()
        for model in ("gemini-2.5-pro", "claude-x", "mistral-y", "meta/z"):
            view = account.for_model(model)
            error = view.read_error(500, {}, said)
            assert error.message == "*** ***"


class TestGemini:
    def test_ids_of_calls_are_not_sent(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        request = asked(messages=[
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "x"},
        ])  # fmt: skip
        parts = [content["parts"][0] for content in sent(prepare("gemini-2.5-pro", request))["contents"]]
        assert parts[1:] == [
            {"functionCall": {"name": "f", "args": {}}},
            {"functionResponse": {"name": "f", "response": {"output": "x"}}},
        ]

    def test_address_has_a_media_type_always(self) -> None:
        def part(url: str) -> Any:
            message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
            return sent(prepare("gemini-2.5-pro", asked(messages=[message])))["contents"][0]["parts"][0]["fileData"]

        assert part("gs://b/a.png")["mimeType"] == "image/png"
        assert part("https://h/a")["mimeType"] == "image/jpeg"

    def test_uploaded_files_and_tiers_are_not_known(self) -> None:
        message = {"role": "user", "content": [{"type": "file", "file": {"file_id": "files/a"}}]}
        with pytest.raises(InvalidRequest):
            prepare("gemini-2.5-pro", asked(messages=[message]))
        assert prepare("gemini-2.5-pro", asked(service_tier="flex")).dropped == ("service_tier",)

    def test_table_builds_it(self) -> None:
        settings = ProviderSettings(name="v", kind="vertex", project="p", location="global")
        assert isinstance(build_provider(settings), VertexProvider)


class TestEmbeddings:
    def test_of_text_models_are_predicted(self) -> None:
        request = asked("embeddings", input=["a", "b"], dimensions=2, task_type="CLUSTERING")
        out = prepare("text-embedding-005", request)
        assert out.url == f"{PLACE}/publishers/google/models/text-embedding-005:predict"
        assert sent(out) == {
            "instances": [{"content": "a", "task_type": "CLUSTERING"}, {"content": "b", "task_type": "CLUSTERING"}],
            "parameters": {"autoTruncate": False, "outputDimensionality": 2},
        }

    def test_of_gemini_are_one_at_a_time(self) -> None:
        assert sent(prepare("gemini-embedding-001", asked("embeddings", input="a")))["instances"] == [{"content": "a"}]
        with pytest.raises(InvalidRequest, match="one text at a time"):
            prepare("gemini-embedding-001", asked("embeddings", input=["a", "b"]))

    def test_of_later_models_have_a_method_of_their_own(self) -> None:
        out = prepare("gemini-embedding-2", asked("embeddings", input="a", dimensions=2))
        assert out.url.endswith("/gemini-embedding-2:embedContent")
        assert sent(out) == {
            "content": {"parts": [{"text": "a"}]},
            "embedContentConfig": {"outputDimensionality": 2, "autoTruncate": False},
        }

    def test_answers(self) -> None:
        def vector(values: list[float], tokens: int) -> dict[str, Any]:
            return {"embeddings": {"values": values, "statistics": {"token_count": tokens, "truncated": False}}}

        answer = json.dumps({"predictions": [vector([0.5], 3), vector([1.5], 4)]}).encode()
        assert provider().read_answer(asked("embeddings", input=["a", "b"]), answer) == [
            Started("", ""), Embedded([0.5]), Embedded([1.5], 1),
            UsageReported(TokenUsage(prompt_tokens=7, total_tokens=7)), Ended(),
        ]  # fmt: skip
        answer = json.dumps({"embedding": {"values": [2.5]}, "usageMetadata": {"promptTokenCount": 5}}).encode()
        assert provider().read_answer(asked("embeddings", input="a"), answer)[1:] == [
            Embedded([2.5]), UsageReported(TokenUsage(prompt_tokens=5, total_tokens=5)), Ended(),
        ]  # fmt: skip


class TestClaude:
    def test_body_is_anthropics_without_the_model_and_with_the_version(self) -> None:
        out = prepare("claude-sonnet-4@20250514", stream=True)
        assert out.url == f"{PLACE}/publishers/anthropic/models/claude-sonnet-4@20250514:streamRawPredict"
        body = sent(out)
        assert body["anthropic_version"] == "vertex-2023-10-16"
        assert body["stream"] is True
        assert "model" not in body
        assert body["messages"][0]["role"] == "user"

    def test_names_and_methods(self) -> None:
        out = prepare("anthropic/claude-opus-4", asked("completions", prompt="a"), version="vertex-2030")
        assert out.url == f"{PLACE}/publishers/anthropic/models/claude-opus-4:rawPredict"
        assert sent(out)["anthropic_version"] == "vertex-2030"

    def test_speaks_anthropics_wire(self) -> None:
        view = provider().for_model("claude-sonnet-4")
        assert view.wire == "anthropic"
        assert view.stream_types == ("text/event-stream",)
        answer = {"id": "m1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
                  "content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": 1, "output_tokens": 2}}  # fmt: skip
        assert TextDelta("Hi") in view.read_answer(asked(), json.dumps(answer).encode())
        decoder = view.decoder(asked())
        start = {"type": "message_start", "message": {**answer, "content": [], "stop_reason": None}}
        assert any(
            isinstance(event, Started) for event in decoder.feed(Frame(json.dumps(start).encode(), "message_start"))
        )

    def test_errors_of_both_are_read(self) -> None:
        view = provider().for_model("claude-sonnet-4")
        own = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        assert view.read_error(529, {}, json.dumps(own).encode()).type == "overloaded_error"
        googles = [{"error": {"code": 404, "message": "No such model.", "status": "NOT_FOUND"}}]
        assert view.read_error(404, {}, json.dumps(googles).encode()).type == "NOT_FOUND"

    def test_has_no_embeddings(self) -> None:
        view = provider().for_model("claude-sonnet-4")
        assert "embeddings" not in view.capabilities.operations
        with pytest.raises(InvalidRequest):
            view.prepare(asked("embeddings", input="a"), model="claude-sonnet-4", stream=False)


class TestMistral:
    def test_body_is_mistrals(self) -> None:
        out = prepare("mistral-small-2503", asked(seed=3, store=True, logprobs=False), stream=True)
        assert out.url == f"{PLACE}/publishers/mistralai/models/mistral-small-2503:streamRawPredict"
        body = sent(out)
        assert (body["model"], body["random_seed"], body["stream"]) == ("mistral-small-2503", 3, True)
        assert "stream_options" not in body
        assert "store" not in body
        assert out.dropped == ("store",)

    def test_gap_is_filled_in_at_the_same_address(self) -> None:
        out = prepare("codestral-2", asked("completions", prompt="def f(", suffix="return x"))
        assert out.url == f"{PLACE}/publishers/mistralai/models/codestral-2:rawPredict"
        assert sent(out)["suffix"] == "return x"

    def test_speaks_mistrals_wire(self) -> None:
        view = provider().for_model("mistral-small-2503")
        assert view.wire == "mistral"
        answer = {"id": "1", "model": "m", "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
        assert TextDelta("Hi") in view.read_answer(asked(), json.dumps(answer).encode())


class TestOpenModels:
    def test_are_reached_by_the_address_of_openais_wire(self) -> None:
        request = asked(stream=True, temperature=1, stream_options={"include_usage": False})
        out = prepare("meta/llama-4-maverick-17b-128e-instruct-maas", request, stream=True)
        assert out.url == f"{PLACE}/endpoints/openapi/chat/completions"
        assert sent(out) == {
            "model": "meta/llama-4-maverick-17b-128e-instruct-maas",
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def test_pass_to_a_client_of_that_wire_as_they_are(self) -> None:
        view = provider().for_model("deepseek-ai/deepseek-v3.1-maas")
        assert view.wire == "openai"
        (recording,) = (one for one in recordings("openai") if one.name == "chat_text")
        decoder = view.decoder(asked())
        events = [
            event
            for data in recording.response.split(b"\n\n") if data
            for event in decoder.feed(Frame(data.removeprefix(b"data: ")))
        ]  # fmt: skip
        assert events == recording.events

    def test_serve_chats_alone(self) -> None:
        with pytest.raises(InvalidRequest):
            prepare("meta/llama", asked("completions", prompt="a"))
