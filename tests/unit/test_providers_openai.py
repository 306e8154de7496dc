from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from trio_ai_proxy import __version__
from trio_ai_proxy.chat.request import ChatRequest, Operation
from trio_ai_proxy.errors import ConfigError, InvalidRequest
from trio_ai_proxy.providers.base import Capabilities, UpstreamRequest
from trio_ai_proxy.providers.openai import OpenAIProvider
from trio_ai_proxy.providers.table import KINDS
from trio_ai_proxy.settings import AuthSettings, ProviderSettings, Secret

KEY = Secret("sk-1234567890", "a test")
CHAT = ChatRequest("chat", "asked", stream=True, include_usage=False, fields={})


def provider(capabilities: Capabilities | None = None, **settings: Any) -> OpenAIProvider:
    settings.setdefault("api_key", KEY)
    kind = KINDS["openai"]
    if capabilities is not None:
        kind = replace(kind, capabilities=capabilities)
    return OpenAIProvider(ProviderSettings(name="p", kind="openai", **settings), kind)


def prepare(
    fields: dict[str, Any] | None = None,
    *,
    stream: bool = False,
    operation: Operation = "chat",
    capabilities: Capabilities | None = None,
    **settings: Any,
) -> UpstreamRequest:
    fields = fields if fields is not None else {"model": "asked", "messages": [{"role": "user", "content": "hi"}]}
    request = ChatRequest(operation, "asked", stream, False, fields)
    return provider(capabilities, **settings).prepare(request, model="real", stream=stream)


def sent(request: UpstreamRequest) -> dict[str, Any]:
    return json.loads(request.body)


class TestAddress:
    def test_is_the_kinds_own_and_the_operations_path(self) -> None:
        assert prepare().url == "https://api.openai.com/v1/chat/completions"
        assert prepare(operation="completions").url == "https://api.openai.com/v1/completions"
        assert prepare().method == "POST"

    @pytest.mark.parametrize("base_url", ["http://h:1/x/v1", "http://h:1/x/v1/"])
    def test_is_the_configured_one_with_or_without_a_slash(self, base_url: str) -> None:
        assert prepare(base_url=base_url).url == "http://h:1/x/v1/chat/completions"

    def test_keeps_the_query_of_the_configured_one(self) -> None:
        assert prepare(base_url="http://h/v1?api-version=1").url == "http://h/v1/chat/completions?api-version=1"

    def test_is_not_the_requests_to_choose(self) -> None:
        fields = {"model": "http://evil/", "base_url": "http://evil", "api_base": "http://evil", "custom_host": "evil"}
        assert prepare(fields).url == "https://api.openai.com/v1/chat/completions"

    def test_is_needed(self) -> None:
        with pytest.raises(ConfigError, match="needs a base_url"):
            OpenAIProvider(ProviderSettings(name="p", kind="vllm"), KINDS["vllm"])


class TestHeaders:
    def test_of_a_stream(self) -> None:
        assert dict(prepare(stream=True).headers) == {
            b"content-type": b"application/json",
            b"accept": b"text/event-stream",
            b"accept-encoding": b"identity",
            b"user-agent": f"trio-ai-proxy/{__version__}".encode(),
            b"authorization": b"Bearer sk-1234567890",
        }

    def test_of_a_whole_answer(self) -> None:
        assert dict(prepare().headers)[b"accept"] == b"application/json"

    def test_configured_ones_are_added_and_take_the_place_of_ours(self) -> None:
        headers = dict(prepare(headers={"OpenAI-Organization": "org", "User-Agent": "mine"}).headers)
        assert headers[b"openai-organization"] == b"org"
        assert headers[b"user-agent"] == b"mine"

    def test_credential_is_not_for_configured_headers_to_replace(self) -> None:
        assert dict(prepare(headers={"Authorization": "x"}).headers)[b"authorization"] == b"Bearer sk-1234567890"

    def test_without_a_key_there_is_no_credential(self) -> None:
        assert b"authorization" not in dict(prepare(api_key=None).headers)

    def test_that_cannot_be_sent_are_refused_without_being_shown(self) -> None:
        with pytest.raises(ConfigError) as caught:
            provider(api_key=Secret("sk-☃", "a test"))
        assert "☃" not in str(caught.value)
        assert caught.value.__cause__ is None


class TestAuth:
    def test_header_takes_the_place_of_the_key(self) -> None:
        auth = AuthSettings(header_name="X-Key", header_value=Secret("abc", "a test"))
        headers = dict(prepare(auth=auth).headers)
        assert headers[b"x-key"] == b"abc"
        assert b"authorization" not in headers

    @pytest.mark.parametrize(("base_url", "joint"), [("http://h/v1", "?"), ("http://h/v1?a=1", "?a=1&")])
    def test_query_parameter_is_percent_encoded(self, base_url: str, joint: str) -> None:
        auth = AuthSettings(param_name="my key", param_value=Secret("a&b=c d/é", "a test"), param_location="query")
        url = prepare(auth=auth, api_key=None, base_url=base_url).url
        assert url == f"http://h/v1/chat/completions{joint}my%20key=a%26b%3Dc%20d%2F%C3%A9"

    def test_body_parameter_is_added_to_the_body_and_wins_over_the_clients(self) -> None:
        auth = AuthSettings(param_name="token", param_value=Secret("abc", "a test"), param_location="body")
        assert sent(prepare({"token": "theirs"}, auth=auth))["token"] == "abc"


class TestBody:
    def test_has_all_the_clients_fields_and_our_model(self) -> None:
        fields = {
            "model": "asked",
            "messages": [{"role": "user", "content": "é\u2028🙂"}],
            "seed": 1,
            "x": [1.5, None, {}],
        }
        assert sent(prepare(fields)) == {**fields, "model": "real"}

    def test_asks_for_a_stream_and_its_usage(self) -> None:
        body = sent(prepare({"stream_options": {"include_usage": False, "include_obfuscation": False}}, stream=True))
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True, "include_obfuscation": False}

    @pytest.mark.parametrize("options", [{}, {"stream_options": None}])
    def test_asks_for_usage_also_where_the_client_does_not(self, options: dict[str, Any]) -> None:
        assert sent(prepare(options, stream=True))["stream_options"] == {"include_usage": True}

    def test_asks_for_no_usage_where_the_service_does_not_know_the_field(self) -> None:
        body = sent(prepare({"stream_options": {}}, stream=True, capabilities=Capabilities(stream_usage=False)))
        assert body == {"model": "real", "stream": True}

    def test_of_a_whole_answer_says_nothing_of_streams_that_the_client_did_not(self) -> None:
        assert sent(prepare({"stream_options": {"include_usage": True}})) == {"model": "real"}
        assert sent(prepare({"stream": True})) == {"stream": False, "model": "real"}

    def test_leaves_the_clients_fields_as_they_were(self) -> None:
        fields: dict[str, Any] = {"model": "asked", "stream": True, "stream_options": {"include_usage": False}}
        before = copy.deepcopy(fields)
        prepare(fields, stream=True)
        prepare(fields, stream=False)
        assert fields == before

    def test_too_deep_to_be_written_is_a_bad_request(self) -> None:
        deep: list[Any] = []
        for _ in range(200_000):
            deep = [deep]
        with pytest.raises(InvalidRequest, match="nested too deeply"):
            prepare({"x": deep})
        while deep:  # taken apart by hand: the interpreter's own way of dropping it goes as deep as it is
            deep = deep.pop()

    def test_operation_that_is_not_served_is_a_bad_request(self) -> None:
        with pytest.raises(InvalidRequest, match="does not serve completions"):
            prepare(operation="completions", capabilities=Capabilities(operations=frozenset({"chat"})))


class TestSecrets:
    AUTH = AuthSettings(header_name="X-Key", header_value=Secret("Token abcdef123", "a test"))

    @pytest.mark.parametrize(
        "settings", [{}, {"auth": AUTH, "api_key": None}, {"headers": {"x-own": "0123456789abcdef"}}]
    )
    def test_do_not_come_back_in_errors(self, settings: dict[str, Any]) -> None:
        echo = {"error": {"message": "bad sk-1234567890 / Token abcdef123 / abcdef123 / 0123456789abcdef", "code": 401}}
        made = provider(**settings)
        told = json.dumps(echo).encode()
        failed = made.decoder(CHAT).feed(made.framer().feed(b"data: " + told + b"\n\n")[0])[0]
        for error in (made.read_error(401, {}, told), failed.error, made.read_answer(CHAT, told)[0].error):  # type: ignore[union-attr]
            for secret in {"api_key": ["sk-1234567890"], "auth": ["abcdef123"], "headers": ["0123456789abcdef"]}[
                next(iter(settings), "api_key")
            ]:
                assert secret not in error.message
                assert "***" in error.message

    def test_do_not_show_in_the_repr(self) -> None:
        assert "sk-" not in repr(provider())

    def test_our_key_refused_is_not_the_callers_fault(self) -> None:
        error = provider().read_error(401, {}, b'{"error":{"message":"Incorrect API key provided"}}')
        assert (error.status, error.upstream_status) == (502, 401)
