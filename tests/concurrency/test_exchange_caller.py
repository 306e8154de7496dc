"""What a request says beside its body: a model's name out of its head or path, and a credential of its own."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.exchanges import DONE, ROLE, STOP, Bench, delta, error_of, key, stream, text

from trio_ai_proxy.settings import (
    AuthSettings,
    ModelSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    Settings,
    TargetSettings,
    Timeouts,
    TokenSettings,
)
from trio_ai_proxy.testing import Script, ScriptedTransport, Step, no_leaks, open_gateway, openai_answer, openai_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from trio.testing import MockClock

    from trio_ai_proxy.testing import ClientAnswer

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}


def settings(
    *routes: RouteSettings, kind: dict[str, Any] | None = None, **models: tuple[str, dict[str, Any]]
) -> Settings:
    account = {"name": "p", "kind": "openai", "base_url": "http://up.invalid/v1", "api_key": Secret("sk-up", "a test")}
    return Settings(
        tokens=TokenSettings(load_timeout=0),
        timeouts=Timeouts(),
        providers={"p": ProviderSettings(**{**account, **(kind or {})})},
        models={
            name: ModelSettings(name=name, targets=(TargetSettings("p", target),), options=options)
            for name, (target, options) in models.items()
        },
        routes=routes,
    )


async def ask(
    configured: Settings,
    path: str,
    body: dict[str, Any],
    *,
    headers: tuple[tuple[str, str], ...] = (),
    play: Callable[[httpx.Request], Script] = lambda _request: openai_answer("Hi", usage=(1, 2)),
) -> tuple[ClientAnswer, list[httpx.Request]]:
    """The answer, and what the provider was asked."""
    transport = ScriptedTransport(play)
    async with no_leaks(), open_gateway(configured, {"p": transport}) as opened:
        answer = await opened.client.post(path, json=body, headers=headers)
    return answer, [exchange.request for exchange in transport.exchanges]


class TestPlaceholders:
    ROUTES = (
        RouteSettings("/chat/{team}/{model}", "llm/v1/chat", "$(uri_captures.model)"),
        RouteSettings("/chat/exact/path", "llm/v1/chat", "fixed"),
        RouteSettings("/any/{deployment}", "llm/v1/chat", "any"),
        RouteSettings("/openai/deployments/{deployment}/embeddings", "llm/v1/embeddings", "any"),
        RouteSettings("/header", "llm/v1/chat", "$(headers.x-model)"),
    )

    def configured(self, **kind: Any) -> Settings:
        return settings(
            *self.ROUTES,
            kind=kind,
            fixed=("fixed-target", {}),
            gpt=("gpt-$(headers.x-region)-$(query_params.tier)", {"user": "team-$(uri_captures.team)"}),
            any=("$(uri_captures.deployment)", {}),
        )

    async def test_name_comes_out_of_the_path_the_head_and_the_query(self, autojump_clock: MockClock) -> None:
        answer, [sent] = await ask(
            self.configured(), "/chat/blue/gpt?tier=mini", MESSAGES, headers=(("X-Region", "eu"),)
        )
        assert answer.status == 200
        body = json.loads(sent.content)
        assert (body["model"], body["user"]) == ("gpt-eu-mini", "team-blue")
        assert answer.header("x-llm-model") == "gpt-eu-mini"
        assert str(sent.url) == "http://up.invalid/v1/chat/completions"

    async def test_exact_paths_go_first(self, autojump_clock: MockClock) -> None:
        _, [sent] = await ask(self.configured(), "/chat/exact/path", MESSAGES)
        assert json.loads(sent.content)["model"] == "fixed-target"

    async def test_azures_own_paths_pick_the_deployment(self, autojump_clock: MockClock) -> None:
        azure = {"kind": "azure", "base_url": "http://res.invalid", "api_version": "2024-10-21"}
        answer, [sent] = await ask(
            self.configured(**azure),
            "/openai/deployments/text-3/embeddings?api-version=ignored",
            {"input": "x"},
            play=lambda _: document({"object": "list", "model": "e", "data": [{"index": 0, "embedding": [0.5]}],
                                     "usage": {"prompt_tokens": 3, "total_tokens": 3}}),
        )  # fmt: skip
        assert answer.status == 200
        assert answer.json()["data"][0]["embedding"] == [0.5]
        assert str(sent.url) == "http://res.invalid/openai/deployments/text-3/embeddings?api-version=2024-10-21"
        assert sent.headers["api-key"] == "sk-up"

    @pytest.mark.parametrize(
        ("path", "headers", "param"),
        [
            ("/chat/blue/gpt?tier=mini", (), "headers.x-region"),
            ("/chat/blue/gpt", (("x-region", "eu"),), "query_params.tier"),
            ("/v1/chat/completions?tier=a", (("x-region", "eu"),), "uri_captures.team"),
            ("/header", (), "headers.x-model"),
            ("/v1/chat/completions", (), "uri_captures.deployment"),
        ],
    )
    async def test_what_is_missing_is_named(
        self, autojump_clock: MockClock, path: str, headers: tuple[tuple[str, str], ...], param: str
    ) -> None:
        body = {**MESSAGES, **({"model": "any" if "deployment" in param else "gpt"} if "/v1/" in path else {})}
        answer, sent = await ask(self.configured(), path, body, headers=headers)
        assert (answer.status, sent) == (400, [])
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("missing_value", param)

    @pytest.mark.parametrize(
        "value", ["..", "%2e%2e", "a%2F..%2Fb", "a%3Fb", "a%23b", "a%00b", "a%0d%0ab", "%20", "%E2%80%A8"]
    )
    async def test_name_is_never_a_path(self, autojump_clock: MockClock, value: str) -> None:
        azure = {"kind": "azure", "base_url": "http://res.invalid", "api_version": "2024-10-21"}
        answer, sent = await ask(self.configured(**azure), f"/any/{value}", MESSAGES)
        assert (answer.status, sent) == (400, [])
        assert answer.json()["error"]["code"] == "invalid_value"

    async def test_escaped_slash_is_part_of_a_name(self, autojump_clock: MockClock) -> None:
        azure = {"kind": "azure", "base_url": "http://res.invalid", "api_version": "2024-10-21"}
        _, [sent] = await ask(self.configured(**azure), "/any/org%2Fmodel", MESSAGES)
        assert sent.url.raw_path == b"/openai/deployments/org%2Fmodel/chat/completions?api-version=2024-10-21"

    async def test_unknown_model_of_a_path_is_a_404(self, autojump_clock: MockClock) -> None:
        answer, _ = await ask(self.configured(), "/chat/blue/nobody", MESSAGES)
        assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")

    async def test_paths_that_no_route_takes_are_unknown(self, autojump_clock: MockClock) -> None:
        for path in ("/chat/blue", "/chat/blue/", "/chat/blue/gpt/", "/chat//gpt", "/any/"):
            answer, _ = await ask(self.configured(), path, MESSAGES)
            assert (answer.status, answer.json()["error"]["code"]) == (404, "unknown_path")

    async def test_rights_are_those_to_the_model_that_the_path_names(self, autojump_clock: MockClock) -> None:
        allowed = key("a", "k1", "fixed")
        configured = self.configured()
        configured = Settings(
            tokens=configured.tokens, providers=configured.providers, models=configured.models, routes=configured.routes,
            keys=(allowed,),
        )  # fmt: skip
        bearer = (("authorization", "Bearer k1"),)
        answer, sent = await ask(configured, "/any/fixed-target", MESSAGES, headers=bearer)
        assert (answer.status, sent) == (403, [])
        answer, [sent_one] = await ask(configured, "/chat/exact/path", MESSAGES, headers=bearer)
        assert answer.status == 200
        assert sent_one.headers["authorization"] == "Bearer sk-up"


def document(value: Any) -> Script:
    return Script(
        headers=(("content-type", "application/json"),), steps=lambda: iter([Step(0.0, json.dumps(value).encode())])
    )


class TestOwnCredential:
    HEADER = AuthSettings("x-own-key", Secret("ours-123456", "a test"), allow_override=True)
    QUERY = AuthSettings(None, None, "own_key", Secret("ours-123456", "a test"), "query", allow_override=True)
    BODY = AuthSettings(None, None, "own_key", Secret("ours-123456", "a test"), "body", allow_override=True)

    def configured(self, auth: AuthSettings, **kind: Any) -> Settings:
        return settings(kind={"auth": auth, "api_key": None, **kind}, m=("m", {}))

    async def test_header_of_the_client_goes_out_in_place_of_ours(self, autojump_clock: MockClock) -> None:
        body = {"model": "m", **MESSAGES}
        _, [sent] = await ask(
            self.configured(self.HEADER),
            "/v1/chat/completions",
            body,
            headers=(("X-Own-Key", "theirs"), ("x-other", "1")),
        )
        assert sent.headers["x-own-key"] == "theirs"
        assert "x-other" not in sent.headers
        _, [sent] = await ask(self.configured(self.HEADER), "/v1/chat/completions", body)
        assert sent.headers["x-own-key"] == "ours-123456"

    async def test_parameter_of_the_client_goes_out_in_place_of_ours(self, autojump_clock: MockClock) -> None:
        body = {"model": "m", **MESSAGES}
        _, [sent] = await ask(self.configured(self.QUERY), "/v1/chat/completions?own_key=the%2Firs", body)
        assert sent.url.query == b"own_key=the%2Firs"
        _, [sent] = await ask(self.configured(self.BODY), "/v1/chat/completions", {**body, "own_key": "theirs"})
        assert json.loads(sent.content)["own_key"] == "theirs"
        _, [sent] = await ask(self.configured(self.BODY), "/v1/chat/completions", body)
        assert json.loads(sent.content)["own_key"] == "ours-123456"

    async def test_without_leave_ours_goes_out(self, autojump_clock: MockClock) -> None:
        auth = AuthSettings("x-own-key", Secret("ours-123456", "a test"))
        _, [sent] = await ask(
            self.configured(auth),
            "/v1/chat/completions",
            {"model": "m", **MESSAGES},
            headers=(("x-own-key", "theirs"),),
        )
        assert sent.headers["x-own-key"] == "ours-123456"

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_is_in_no_error_and_no_record(self, autojump_clock: MockClock, streamed: bool) -> None:
        refusal = openai_error(401, "Incorrect key theirs-secret-1 of ours-123456.", code="theirs-secret-1")
        provider = {"auth": self.HEADER, "api_key": None}
        async with Bench(refusal, provider=provider) as bench:
            asking = bench.ask_stream if streamed else bench.ask
            answer = await asking(headers=(("x-own-key", "theirs-secret-1"),))
            assert error_of(answer)["message"] == "Incorrect key *** of ***."
            assert error_of(answer)["code"] == "***"
        assert "theirs" not in str(bench.record)
        assert "theirs" not in str(bench._lines)

    async def test_is_in_no_error_within_a_stream(self, autojump_clock: MockClock) -> None:
        failing = stream(delta(ROLE), delta("Hi"), b'data: {"error":{"message":"bad theirs-secret-1"}}\n\n')
        async with Bench(failing, provider={"auth": self.HEADER, "api_key": None}) as bench:
            answer = await bench.ask_stream(headers=(("x-own-key", "theirs-secret-1"),))
            assert text(answer) == "Hi"
            assert b"theirs" not in answer.body
        assert bench.record.detail == "bad ***"

    async def test_key_of_the_gateway_is_no_credential_of_a_provider(self, autojump_clock: MockClock) -> None:
        """The rule of the configuration says so first; this is what holds without it."""
        auth = AuthSettings("authorization", Secret("Bearer ours-123456", "a test"), allow_override=True)
        script = stream(delta(ROLE), delta("Hi"), STOP, DONE)
        keys = (key("a", "gateway-key"),)
        async with Bench(script, provider={"auth": auth, "api_key": None}, keys=keys) as bench:
            answer = await bench.ask_stream(headers=(("authorization", "Bearer gateway-key"),))
            assert text(answer) == "Hi"
            [exchange] = bench.transport.exchanges
        assert exchange.request.headers["authorization"] == "Bearer ours-123456"
        assert hashlib.sha256(b"gateway-key").digest() == keys[0].sha256

    async def test_what_no_header_can_carry_is_refused(self, autojump_clock: MockClock) -> None:
        answer, sent = await ask(
            self.configured(self.HEADER), "/v1/chat/completions", {"model": "m", **MESSAGES},
            headers=(("x-own-key", "caf\u00e9"),),
        )  # fmt: skip
        assert (answer.status, sent) == (400, [])
        assert answer.json()["error"]["param"] == "headers.x-own-key"


class TestEmbeddings:
    @pytest.mark.parametrize("kind", [{}, {"kind": "azure", "base_url": "http://res.invalid"}])
    async def test_pass_as_they_came(self, autojump_clock: MockClock, kind: dict[str, Any]) -> None:
        whole = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": "AAAAPw=="}], "model": "text-3",
                 "usage": {"prompt_tokens": 7, "total_tokens": 7}}  # fmt: skip
        body = {"model": "m", "input": [[1, 2]], "encoding_format": "base64"}
        answer, [sent] = await ask(
            settings(kind=kind, m=("text-3", {})), "/v1/embeddings", body, play=lambda _: document(whole)
        )
        assert answer.status == 200
        assert answer.json() == {**whole, "model": "m"}
        assert json.loads(sent.content) == {**body, "model": "text-3"}
        assert sent.url.path.endswith("/v1/embeddings")
