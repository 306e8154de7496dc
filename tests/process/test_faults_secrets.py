"""Keys and destinations, against the real command. Numbers are those of docs/faults.md.

Planted keys appear nowhere but where they belong, a client's key never reaches a provider, and nothing in a request
chooses where it goes.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.raw_server import raw_server
from support.standing import (
    HeldPort,
    ask,
    chat,
    get,
    idle,
    metrics,
    send_raw,
    standing,
    upstream,
    wire,
)  # fmt: skip

from trio_ai_proxy.testing import RawClient, Script, ScriptedServer, Step, openai_stream
from trio_ai_proxy.testing import openai_error as refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from support.command import Command
    from support.raw_server import Peer

    from trio_ai_proxy.testing import ReceivedRequest

pytestmark = pytest.mark.process

UPSTREAM_KEY = "sk-upstream-marker-90125"
HEADER_KEY = "Token header-marker-90126"
QUERY_KEY = "query-marker-90127"
BODY_KEY = "body-marker-90128"
ALL_KEY = "client-all-marker-90129"
ONE_KEY = "client-one-marker-90130"
WRONG_KEY = "client-wrong-marker-90131"
MARKERS = [UPSTREAM_KEY, HEADER_KEY.split()[1], QUERY_KEY, BODY_KEY, ALL_KEY, ONE_KEY, WRONG_KEY]


@dataclass
class House:
    gateway: Command
    port: HeldPort
    seen: bytes = b""  # all that clients and operators have been sent

    def keep(self, *parts: Any) -> None:
        self.seen += repr(parts).encode()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    port = HeldPort()
    provider = f'kind = "openai"\nbase_url = "{port.url}/v1"'
    config = f"""
[timeouts]
first_token = 0.5
idle = 0.5
body = 1
[providers.scripted]
{provider}
api_key = "${{UPSTREAM_KEY}}"
[providers.by-header]
{provider}
auth = {{ header_name = "X-Key", header_value = "${{HEADER_KEY}}" }}
headers = {{ X-Project = "p1" }}
[providers.by-query]
{provider}
auth = {{ param_name = "key", param_value = "${{QUERY_KEY}}", param_location = "query" }}
[providers.by-body]
{provider}
auth = {{ param_name = "key", param_value = "${{BODY_KEY}}", param_location = "body" }}
[models]
scripted.targets = [{{ provider = "scripted", model = "scripted" }}]
by-header.targets = [{{ provider = "by-header", model = "scripted" }}]
by-query.targets = [{{ provider = "by-query", model = "scripted" }}]
by-body.targets = [{{ provider = "by-body", model = "scripted" }}]
[[keys]]
name = "all"
secret = "${{ALL_KEY}}"
[[keys]]
name = "one"
secret = "${{ONE_KEY}}"
models = ["script*"]
"""
    env = {
        "UPSTREAM_KEY": UPSTREAM_KEY, "HEADER_KEY": HEADER_KEY, "QUERY_KEY": QUERY_KEY, "BODY_KEY": BODY_KEY,
        "ALL_KEY": ALL_KEY, "ONE_KEY": ONE_KEY,
    }  # fmt: skip
    with closing(port), standing(config, env=env, server='cors_origins = ["https://app.example"]') as gateway:
        house = House(gateway, port)
        yield house
        records = gateway.records_file.read_text()
        for marker in MARKERS:
            assert marker not in gateway.log
            assert marker not in records
            assert marker.encode() not in house.seen
        assert '"bug"' not in gateway.log


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


ALL, ONE = bearer(ALL_KEY), bearer(ONE_KEY)


@pytest.fixture
async def provider(house: House) -> AsyncIterator[ScriptedServer]:
    async with upstream(house.port) as server:
        yield server
        await idle(house.gateway)


# ── 46: who asks ─────────────────────────────────────────────────────────────────────────────────────────────────────

WRONG: dict[str, tuple[list[tuple[str, str]], str]] = {
    "no header": ([], "missing_api_key"),
    "an empty header": ([("authorization", "")], "missing_api_key"),
    "no key": ([("authorization", "Bearer ")], "missing_api_key"),
    "another scheme": ([("authorization", f"Basic {ALL_KEY}")], "missing_api_key"),
    "a wrong key": (bearer(WRONG_KEY), "invalid_api_key"),
    "a part of a key": (bearer(ALL_KEY[:-1]), "invalid_api_key"),
    "a key and more": (bearer(ALL_KEY + "x"), "invalid_api_key"),
    "a key in another case": (bearer(ALL_KEY.upper()), "invalid_api_key"),
    "the provider's key": (bearer(UPSTREAM_KEY), "invalid_api_key"),
    "bytes": ([("authorization", "Bearer \xff\xfe")], "invalid_api_key"),
    "another header": ([("x-api-key", ALL_KEY)], "missing_api_key"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_46_without_a_key_of_ours_it_is_a_401_that_goes_nowhere(
    house: House, provider: ScriptedServer, name: str
) -> None:
    headers, code = WRONG[name]
    answer = await ask(house.gateway, headers=headers)
    house.keep(answer)
    assert (answer.status, answer.error["code"]) == (401, code)
    assert answer.error["type"] == "authentication_error"
    assert answer.header("www-authenticate") == "Bearer"
    assert (await house.gateway.record(answer.request_id))["outcome"] == "refused"
    listed = await get(house.gateway, "/v1/models", headers=headers)
    house.keep(listed)
    assert listed.status == 401
    assert not provider.exchanges


async def test_46_the_refusal_does_not_wait_for_the_body(house: House, provider: ScriptedServer) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
    began = trio.current_time()
    answer = await send_raw(house.gateway, head)
    assert answer.startswith(b"HTTP/1.1 401 ")
    began_again = trio.current_time()
    big = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n"
    answer = await send_raw(house.gateway, big, *[b" " * 2**20] * 28)
    assert answer.startswith(b"HTTP/1.1 401 "), "delivered, and not destroyed by a reset"
    assert trio.current_time() - began < 6
    assert trio.current_time() - began_again < 5


async def test_46_a_key_may_use_the_models_that_it_was_given(house: House, provider: ScriptedServer) -> None:
    async def names(headers: list[tuple[str, str]]) -> list[str]:
        answer = await get(house.gateway, "/v1/models", headers=headers)
        assert answer.status == 200
        return [card["id"] for card in json.loads(answer.body)["data"]]

    assert await names(ALL) == ["scripted", "by-header", "by-query", "by-body"]
    assert await names(ONE) == ["scripted"]
    assert (await get(house.gateway, "/v1/models/scripted", headers=ONE)).status == 200
    hidden = await get(house.gateway, "/v1/models/by-body", headers=ONE)
    assert (hidden.status, hidden.error["code"]) == (404, "model_not_found")
    answer = await ask(house.gateway, chat(model="by-body"), headers=ONE)
    house.keep(answer)
    assert (answer.status, answer.error["code"]) == (403, "model_not_allowed")
    assert not provider.exchanges
    answer = await ask(house.gateway, headers=ONE)
    assert answer.status == 200
    record = await house.gateway.record(answer.request_id)
    assert record["key"] == "one"


async def test_health_needs_no_key(house: House) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await get(house.gateway, path)).status == 200


# ── 47: where a key appears ──────────────────────────────────────────────────────────────────────────────────────────

LOUD: list[tuple[str, str]] = [
    ("cookie", "session=client-all-marker-90129"), ("x-forwarded-for", "10.0.0.1"), ("x-forwarded-host", "evil.example"),
    ("forwarded", "host=evil.example"), ("x-api-key", ALL_KEY), ("api-key", ALL_KEY), ("proxy-authorization", ALL_KEY),
    ("openai-organization", "org-client"), ("openai-beta", "x"), ("user-agent", "client/1"), ("accept-language", "de"),
    ("accept-encoding", "gzip, br"), ("referer", "https://app.example/secret"), ("traceparent", "00-1-2-03"),
    ("x-stainless-lang", "python"), ("x-anything", "at all"), ("te", "trailers"), ("accept", "*/*"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["scripted", "by-header", "by-query", "by-body"])
async def test_47_what_a_provider_is_sent_is_ours_to_the_last_header(
    house: House, provider: ScriptedServer, model: str, stream: bool
) -> None:
    answer = await ask(house.gateway, chat(model=model, stream=stream), headers=[*ALL, *LOUD])
    house.keep(answer)
    assert answer.status == 200
    [exchange] = provider.exchanges
    request = exchange.request
    assert (request.method, request.path.partition("?")[0]) == ("POST", "/v1/chat/completions")
    headers = dict(request.headers)
    assert len(headers) == len(request.headers), "no name twice"
    expected = {
        "host": f"127.0.0.1:{house.port.number}",
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        "accept-encoding": "identity",
        "user-agent": headers["user-agent"],
        "content-length": str(len(request.body)),
    }
    if model == "scripted":
        expected["authorization"] = f"Bearer {UPSTREAM_KEY}"
    elif model == "by-header":
        expected |= {"x-key": HEADER_KEY, "x-project": "p1"}
    assert headers == expected
    assert headers["user-agent"].startswith("trio-ai-proxy/")
    assert request.path.partition("?")[2] == (f"key={QUERY_KEY}" if model == "by-query" else "")
    fields = {"model", "stream", "messages"} | ({"stream_options"} if stream else set())
    assert set(request.json()) == fields | ({"key"} if model == "by-body" else set())
    assert ALL_KEY.encode() not in request.body


def told(request: ReceivedRequest) -> str:
    """Our credential, as the provider has got it."""
    header = request.header("authorization") or request.header("x-key")
    query = request.path.partition("?key=")[2]
    return header or query or str(request.json()["key"])


ECHOES: dict[str, Callable[[str], Script]] = {
    "a 401": lambda key: refusal(401, f"Incorrect API key provided: {key}"),
    "a 400": lambda key: refusal(400, f"bad: {key} {key.split()[-1]}", code=key, type=key, param=key),
    "an error first in a 200": lambda key: refusal(200, f"in band: {key}", code=key),
    "an error in the middle": lambda key: Script(
        steps=lambda: iter([*openai_stream("abc", ends=False).steps(), *refusal(200, f"in band: {key}").steps()])
    ),
    "a text": lambda key: Script(status=500, headers=(), steps=lambda: iter([Step(0, key.encode())])),
    "a redirect": lambda key: Script(status=302, headers=(("location", f"http://evil.example/?key={key}"),)),
    "a content type": lambda key: Script(headers=(("content-type", f"text/{key.split()[-1]}"),)),
    "a header": lambda key: Script(headers=(("content-type", "text/event-stream"), ("x-echo", key))),
    "silence": lambda key: Script(head_pause=60),
    "a reset": lambda key: Script(refuse=True),
    "a status line": lambda key: wire(Script(), instead_of_head=b"HTTP/1.1 abc " + key.encode() + b"\r\n\r\n"),
    "a chunk size": lambda key: wire(openai_stream("abc", ends=False), instead_of_end=key.encode() + b"\r\n"),
    "no JSON": lambda key: Script(steps=lambda: iter([Step(0, b"data: " + key.encode() + b"\n\n")])),
    "wrong JSON": lambda key: Script(steps=lambda: iter([Step(0, b'data: {"choices": "' + key.encode() + b'"}\n\n')])),
}


@pytest.mark.parametrize("how", ECHOES)
async def test_47_a_provider_that_says_our_key_back_to_us_is_not_passed_on(house: House, how: str) -> None:
    server = ScriptedServer(lambda request: ECHOES[how](told(request)))
    server.port = house.port.number
    async with server, trio.open_nursery() as nursery:
        for model in ("scripted", "by-header", "by-query", "by-body"):
            nursery.start_soon(_ask_and_keep, house, model)
    for marker in (UPSTREAM_KEY, HEADER_KEY.split()[1], QUERY_KEY, BODY_KEY):
        assert marker.encode() not in house.seen, marker


async def test_47_a_provider_that_is_not_there_does_not_bring_the_key_to_light(house: House) -> None:
    for model in ("scripted", "by-header", "by-query", "by-body"):
        await _ask_and_keep(house, model)


async def _ask_and_keep(house: House, model: str) -> None:
    answer = await ask(house.gateway, chat("fault", model=model), headers=ALL)
    assert answer.error
    house.keep(answer)


async def test_47_the_admin_port_shows_no_key_and_no_prompt(house: House) -> None:
    prompt = "fault: my private prompt 4711"
    async with (
        upstream(house.port, openai_stream(iter(lambda: "word ", None), pause=0.05)),
        RawClient("127.0.0.1", house.gateway.port) as client,
    ):
        await client.post("/v1/chat/completions", json=chat(prompt, user=ALL_KEY), headers=ALL)
        await client.read_head()
        rows = await get(house.gateway, "/exchanges", admin=True)
        assert json.loads(rows.body)["exchanges"][0]["key"] == "all"
        shown = await get(house.gateway, "/metrics", admin=True)
        house.keep(rows, shown)
        for body in (rows.body, shown.body):
            assert b"marker" not in body
            assert b"my private prompt" not in body
    await idle(house.gateway)
    assert "my private prompt" not in house.gateway.log
    assert "my private prompt" not in house.gateway.records_file.read_text()


async def test_47_a_key_as_a_model_name_is_no_label(house: House, provider: ScriptedServer) -> None:
    """A slip that happens: the key in the wrong place."""
    answer = await ask(house.gateway, chat(model="sk-slip-marker-1"), headers=ALL)
    assert answer.status == 404
    assert not any("sk-slip" in name for name in await metrics(house.gateway))


# ── 48: odd bytes ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "given",
    [b"a b", b"a\tb", b"x" * 129, b'"', b"<script>", "é".encode(), b"\xff", b"a;b", b"{}", b"%0d%0aset-cookie: x"],
)
async def test_48_an_odd_request_id_is_not_used(house: House, provider: ScriptedServer, given: bytes) -> None:
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: " + given + b"\r\n\r\n"
    answer = await send_raw(house.gateway, request)
    assert answer.startswith(b"HTTP/1.1 200 ")
    [line] = [line for line in answer.split(b"\r\n") if line.lower().startswith(b"x-request-id: ")]
    assert len(line) == len("x-request-id: ") + 32
    assert given not in line


async def test_48_a_line_break_in_a_header_is_no_second_header(house: House, provider: ScriptedServer) -> None:
    for given in (b"a\rset-cookie: x=1", b"a\nset-cookie: x=1", b"a\0b", b"a\r\n\tset-cookie: x=1"):
        request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: " + given + b"\r\n\r\n"
        answer = await send_raw(house.gateway, request)
        assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1
        assert b"\nset-cookie" not in answer.lower()


@pytest.mark.parametrize(
    "model",
    ["a\r\nset-cookie: x=1", "a\nb", "a\0b", "a\x1b[31mb", "a\u2028b", "\u202egpt", "é\u200b", "🙂", "'\"<>`${x}"],
)
async def test_48_an_odd_model_name_breaks_no_header_and_no_line(
    house: House, provider: ScriptedServer, model: str
) -> None:
    answer = await ask(house.gateway, chat(model=model), headers=ALL)
    assert answer.status in (400, 404)
    assert answer.error["param"] == "model"
    assert answer.header("set-cookie") is None
    lines = house.gateway.records_file.read_text().split("\n")
    assert all(line.startswith('{"time":') and line.endswith("}") for line in lines if line)
    assert not provider.exchanges


async def test_48_a_cors_answer_repeats_nothing_that_was_made_up(house: House, provider: ScriptedServer) -> None:
    async def preflight(origin: str) -> dict[str, str]:
        async with RawClient("127.0.0.1", house.gateway.port) as client:
            await client._request(
                "OPTIONS", "/v1/chat/completions",
                [
                    ("origin", origin), ("access-control-request-method", "POST"),
                    ("access-control-request-headers", "authorization,content-type"),
                ], b"",
            )  # fmt: skip
            head = await client.read_head()
            assert head.status == 204
            return dict(head.headers)

    headers = await preflight("https://app.example")
    assert headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in headers["access-control-allow-methods"]
    assert "authorization" in headers["access-control-allow-headers"]
    assert headers["vary"] == "origin"
    assert "access-control-allow-origin" not in await preflight("https://evil.example")
    assert "access-control-allow-origin" not in await preflight("null")
    answer = await ask(house.gateway, headers=[*ALL, ("origin", "https://app.example")])
    assert answer.header("access-control-allow-origin") == "https://app.example"
    refused = await ask(house.gateway, headers=[("origin", "https://app.example")])
    assert refused.header("access-control-allow-origin") == "https://app.example", "a page may read why"


# ── 49: where it goes ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_49_nothing_in_a_request_chooses_its_destination(house: House, provider: ScriptedServer) -> None:
    async def heard(peer: Peer) -> None:
        await peer.request()

    async with raw_server(heard) as elsewhere:
        evil = elsewhere.origin
        fields: dict[str, Any] = {
            "api_base": evil, "base_url": evil, "custom_host": evil, "api_key": "sk-client", "headers": {"host": evil},
            "extra_headers": {"authorization": "x"}, "proxy": evil, "url": evil, "organization": "o",
        }  # fmt: skip
        headers = [
            *ALL, ("x-forwarded-host", evil), ("x-portkey-custom-host", evil), ("x-upstream", evil), ("forwarded", evil),
            ("x-original-url", evil), ("x-rewrite-url", evil),
        ]  # fmt: skip
        answer = await ask(house.gateway, chat(**fields), headers=headers)
        assert answer.status == 200
        for target in ("/v1/chat/completions?base_url=" + evil, "/v1/chat/completions?model=by-body"):
            assert (await ask(house.gateway, headers=ALL, path=target)).status == 200
        raw = b"POST /v1/chat/completions HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n" % evil[7:].encode()
        body = json.dumps(chat()).encode()
        raw += b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n" % (ALL_KEY.encode(), len(body)) + body
        assert (await send_raw(house.gateway, raw)).startswith(b"HTTP/1.1 200 ")
        for model in (
            evil,
            f"{evil}/v1",
            "scripted@" + evil[7:],
            "../scripted",
            "scripted?x",
            "scripted#x",
            "openai/x",
        ):
            assert (await ask(house.gateway, chat(model=model), headers=ALL)).status == 404, model
        assert not elsewhere.peers
    assert [exchange.request.path for exchange in provider.exchanges] == ["/v1/chat/completions"] * 4
    sent = provider.exchanges[0].request.json()
    assert {name: sent[name] for name in fields} == fields, "unknown fields are the provider's to judge"
    assert {exchange.request.header("host") for exchange in provider.exchanges} == {f"127.0.0.1:{house.port.number}"}


async def test_49_no_answer_of_a_provider_sends_us_elsewhere_or_sets_a_header(house: House) -> None:
    async def heard(peer: Peer) -> None:
        await peer.request()

    async with raw_server(heard) as elsewhere:
        script = openai_stream("abc")
        evil = (
            *script.headers, ("location", elsewhere.origin), ("refresh", f"0; url={elsewhere.origin}"),
            ("set-cookie", "a=b"), ("alt-svc", 'h2="evil.example:443"'), ("x-request-id", "theirs"),
            ("strict-transport-security", "max-age=1"), ("access-control-allow-origin", "*"),
        )  # fmt: skip
        async with upstream(house.port, wire(script, headers=evil)) as server:
            answer = await ask(house.gateway, chat("fault"), headers=ALL)
            await ask(house.gateway, headers=ALL)
            assert server.exchanges[1].request.header("cookie") is None
        assert not elsewhere.peers
    assert {name for name, _ in answer.headers} == {
        "content-type", "cache-control", "x-accel-buffering", "x-request-id", "x-llm-provider", "x-llm-model",
        "x-llm-attempts", "date", "transfer-encoding", "vary",
    }  # fmt: skip
    assert answer.header("x-request-id") == answer.request_id


async def test_46_the_house_still_serves(house: House, provider: ScriptedServer) -> None:
    answer = await ask(house.gateway, headers=ALL)
    assert (answer.status, answer.text) == (200, "Hello, world.")
    assert provider.exchanges
