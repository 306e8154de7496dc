"""May it pass: keys, models, origins and bodies, seen from outside through the whole application, and each guard alone."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.exchanges import CHAT, DONE, QUESTION, STOP, Bench, delta, error_of, key, stream, terminals

from trio_ai_proxy.errors import BodyTooLarge, Unauthenticated
from trio_ai_proxy.guards.auth import Keyring
from trio_ai_proxy.guards.body import Body
from trio_ai_proxy.testing import openai_answer

if TYPE_CHECKING:
    from trio.testing import MockClock

SEA = openai_answer("sea")
KEYS = (key("team-a", "secret-a"), key("team-b", "secret-b", "gpt-3*", "other"))
ORIGIN = "https://app.example"


def bearer(secret: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {secret}")]


class TestKeyring:
    def test_open_gateway_knows_nobody(self) -> None:
        assert Keyring(()).identify(None) is None
        assert Keyring(()).identify(b"Bearer anything") is None

    @pytest.mark.parametrize(
        "spelling", [b"Bearer secret-a", b"bearer secret-a", b"BEARER  secret-a ", b" Bearer secret-a"]
    )
    def test_key_is_known_however_the_scheme_is_spelt(self, spelling: bytes) -> None:
        assert Keyring(KEYS).identify(spelling) is KEYS[0]

    @pytest.mark.parametrize(
        ("authorization", "code"),
        [
            (None, "missing_api_key"),
            (b"", "missing_api_key"),
            (b"secret-a", "missing_api_key"),
            (b"Bearer", "missing_api_key"),
            (b"Bearer  ", "missing_api_key"),
            (b"Basic secret-a", "missing_api_key"),
            (b"Bearer secret-c", "invalid_api_key"),
            (b"Bearer secret-a\xff", "invalid_api_key"),
            (b"Bearer " + hashlib.sha256(b"secret-a").hexdigest().encode(), "invalid_api_key"),
        ],
    )
    def test_all_else_is_refused(self, authorization: bytes | None, code: str) -> None:
        with pytest.raises(Unauthenticated) as caught:
            Keyring(KEYS).identify(authorization)
        assert caught.value.code == code
        assert "secret" not in caught.value.message


class TestBody:
    def test_is_whole_when_the_last_piece_is_there(self) -> None:
        body = Body(10)
        body.add(b"abc", last=False)
        assert not body.ready.is_set()
        body.add(b"def", last=True)
        assert body.ready.is_set()
        assert (body.content(), body.size, body.complete) == (b"abcdef", 6, True)

    def test_of_exactly_the_limit_passes(self) -> None:
        body = Body(6)
        body.add(b"abcdef", last=True)
        assert body.content() == b"abcdef"

    def test_beyond_its_limit_is_dropped_and_refused_at_once(self) -> None:
        body = Body(6)
        body.add(b"abcdef", last=False)
        body.add(b"g", last=False)
        assert body.ready.is_set()
        assert not body.complete
        with pytest.raises(BodyTooLarge, match="6 bytes"):
            body.content()

    def test_may_be_empty(self) -> None:
        body = Body(6)
        body.add(b"", last=True)
        assert body.content() == b""


class TestKeys:
    async def test_good_key_stands_in_the_record(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA, keys=KEYS) as bench:
            answer = await bench.ask(headers=bearer("secret-a"))
            assert answer.status == 200
            [exchange] = bench.transport.exchanges
            assert exchange.request.headers["authorization"] == "Bearer sk-upstream"
        assert bench.record.key == "team-a"
        assert "secret-a" not in repr(bench.record)

    @pytest.mark.parametrize("headers", [[], bearer("secret-c"), [("authorization", "Basic x")]])
    async def test_without_one_nothing_is_read_and_nobody_asked(
        self, autojump_clock: MockClock, headers: list[tuple[str, str]]
    ) -> None:
        async with Bench(SEA, keys=KEYS) as bench:
            answer = await bench.client.post(CHAT, body=[b"{", b"}"], body_pause=100, headers=headers)
            assert answer.status == 401
            assert error_of(answer)["type"] == "authentication_error"
            assert answer.header("www-authenticate") == "Bearer"
            assert (answer.sent_at, answer.returned_at) == (None, 0.0)
            assert bench.transport.exchanges == []
        record = bench.record
        assert (record.outcome, record.phase, record.status, record.key) == ("refused", "accepted", 401, None)

    async def test_key_may_use_its_models_and_no_others(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA, keys=KEYS) as bench:
            answer = await bench.ask(headers=bearer("secret-b"))
            error = error_of(answer)
            assert (answer.status, error["code"], error["param"]) == (403, "model_not_allowed", "model")
            unknown = await bench.ask(headers=bearer("secret-b"), json={**QUESTION, "model": "gpt-3-none"})
            assert unknown.status == 404
            assert bench.transport.exchanges == []
        assert [record.key for record in bench.records] == ["team-b", "team-b"]

    async def test_key_sees_its_models_and_no_others(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA, keys=KEYS) as bench:
            listed = (await bench.client.get("/v1/models", headers=bearer("secret-a"))).json()["data"]
            assert [model["id"] for model in listed] == ["gpt-4o"]
            assert (await bench.client.get("/v1/models", headers=bearer("secret-b"))).json()["data"] == []
            assert (await bench.client.get("/v1/models/gpt-4o", headers=bearer("secret-a"))).json()["id"] == "gpt-4o"
            assert (await bench.client.get("/v1/models/gpt-4o", headers=bearer("secret-b"))).status == 404
            for path in ("/v1/models", "/v1/models/gpt-4o"):
                assert (await bench.client.get(path)).status == 401

    async def test_health_needs_none(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA, keys=KEYS) as bench:
            assert (await bench.client.get("/healthz")).json() == {"status": "ok"}
            assert (await bench.client.get("/readyz")).status == 200


class TestHead:
    async def test_announced_body_over_the_limit_is_refused_unread(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA, server={"max_body": 100}) as bench:
            answer = await bench.client.post(CHAT, body=[b" " * 60, b" " * 60], body_pause=100)
            assert (answer.status, error_of(answer)["code"], answer.returned_at) == (413, "body_too_large", 0.0)
        assert (bench.record.outcome, bench.record.phase) == ("refused", "accepted")

    async def test_body_over_the_limit_is_refused_when_it_is_seen(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA, server={"max_body": 100}) as bench:
            pieces = [b" " * 60, b" " * 60, b" " * 60]
            # The client's own content-length comes last and counts; this test is about one that says nothing true.
            sent: dict[str, Any] = {"body": pieces, "body_pause": 10.0}
            original = bench.client._scope

            def scope(*arguments: Any) -> dict[str, Any]:
                made = original(*arguments)
                made["headers"] = [(name, value) for name, value in made["headers"] if name != b"content-length"]
                return made

            bench.client._scope = scope  # type: ignore[method-assign]
            answer = await bench.client.post(CHAT, **sent)
            assert (answer.status, error_of(answer)["code"], answer.returned_at) == (413, "body_too_large", 10.0)
        assert (bench.record.outcome, bench.record.phase) == ("refused", "body")

    @pytest.mark.parametrize(
        "header", [("content-type", "text/plain"), ("content-type", ""), ("content-encoding", "gzip")]
    )
    async def test_body_that_is_no_plain_json_is_refused(
        self, autojump_clock: MockClock, header: tuple[str, str]
    ) -> None:
        async with Bench(SEA) as bench:
            answer = await bench.client.post(CHAT, body=json.dumps(QUESTION).encode(), headers=[header])
            assert (answer.status, error_of(answer)["code"]) == (415, "unsupported_media_type")
        assert bench.record.outcome == "refused"

    @pytest.mark.parametrize("value", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
    async def test_json_is_json_however_it_is_spelt(self, autojump_clock: MockClock, value: str) -> None:
        async with Bench(SEA) as bench:
            answer = await bench.client.post(
                CHAT, body=json.dumps(QUESTION).encode(), headers=[("content-type", value)]
            )
            assert answer.status == 200

    async def test_paths_and_methods_are_exact(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA) as bench:
            for path in ("/", "/v1/chat/completions/", "/v1//chat/completions", "/v1/chat/%63ompletions", "/metrics"):
                answer = await bench.client.post(path, json=QUESTION)
                assert (answer.status, error_of(answer)["code"]) == (404, "unknown_path")
            answer = await bench.client.get(CHAT)
            assert (answer.status, answer.header("allow")) == (405, "POST")
            assert bench.records == []


class TestOrigins:
    async def test_are_no_matter_where_none_is_configured(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA) as bench:
            answer = await bench.ask(headers=[("origin", ORIGIN)])
            assert answer.status == 200
            assert answer.header("access-control-allow-origin") is None
            preflight = await bench.client.request("OPTIONS", CHAT, headers=[("origin", ORIGIN)])
            assert preflight.status == 405

    async def test_configured_one_may_read_streams_and_errors(self, autojump_clock: MockClock) -> None:
        script = stream(delta("sea"), STOP, DONE)
        async with Bench(script, server={"cors_origins": (ORIGIN,)}, keys=KEYS) as bench:
            good = await bench.ask_stream(headers=[("origin", ORIGIN), *bearer("secret-a")])
            assert terminals(good) == ["[DONE]"]
            refused = await bench.ask_stream(headers=[("origin", ORIGIN)])
            assert refused.status == 401
            for answer in (good, refused):
                assert answer.header("access-control-allow-origin") == ORIGIN
                assert answer.header("vary") == "origin"
                assert "x-request-id" in (answer.header("access-control-expose-headers") or "")

    async def test_preflight_is_answered_without_a_key(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA, server={"cors_origins": (ORIGIN,)}, keys=KEYS) as bench:
            asked = [("origin", ORIGIN), ("access-control-request-headers", "authorization, content-type")]
            answer = await bench.client.request("OPTIONS", CHAT, headers=asked)
            assert (answer.status, answer.body) == (204, b"")
            assert answer.header("access-control-allow-origin") == ORIGIN
            assert answer.header("access-control-allow-headers") == "authorization, content-type"
            assert "POST" in (answer.header("access-control-allow-methods") or "")
            assert bench.records == []

    async def test_another_one_may_not_read(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA, server={"cors_origins": (ORIGIN,)}) as bench:
            answer = await bench.ask(headers=[("origin", "https://evil.example")])
            assert answer.header("access-control-allow-origin") is None
            assert answer.header("vary") == "origin"

    async def test_star_is_all(self, autojump_clock: MockClock) -> None:
        async with Bench(SEA, server={"cors_origins": ("*",)}) as bench:
            answer = await bench.ask(headers=[("origin", "https://any.example")])
            assert answer.header("access-control-allow-origin") == "*"
