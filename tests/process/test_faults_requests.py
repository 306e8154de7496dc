"""Requests that are wrong, ambiguous or hostile, against the real command. Numbers are those of docs/faults.md.

Each gets one clear error in OpenAI's shape, none reaches the provider, and the next request is served.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.ranks import default_folder, missing_from, ranks_folder
from support.standing import (
    HeldPort,
    ask,
    chat,
    data_of,
    idle,
    openai_error,
    send_raw,
    serves,
    standing,
    text_of,
    upstream,
)  # fmt: skip

from trio_ai_proxy.testing import RawClient, Script, ScriptedServer, Step, openai_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.command import Command

pytestmark = pytest.mark.process

KEY = "sk-upstream-marker-4712"


@dataclass(frozen=True)
class House:
    gateway: Command
    port: HeldPort


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    port = HeldPort()
    ranks = f'[tokens]\nranks_dir = "{default_folder()}"' if not missing_from(default_folder()) else ""
    config = f"""
{ranks}
[timeouts]
first_token = 20
idle = 20
total = 40
body = 5
[providers.scripted]
kind = "openai"
base_url = "{port.url}/v1"
api_key = "{KEY}"
[models]
scripted.targets = [{{ provider = "scripted", model = "gpt-4o" }}]
quiet.targets = [{{ provider = "scripted", model = "gpt-4o" }}]
quiet.response_streaming = "deny"
[[routes]]
path = "/my-chat"
route_type = "llm/v1/chat"
model = "scripted"
"""
    with closing(port), standing(config) as gateway:
        yield House(gateway, port)


@pytest.fixture
async def provider(house: House) -> AsyncIterator[ScriptedServer]:
    async with upstream(house.port) as server:
        yield server
        await idle(house.gateway)
        await serves(house.gateway)
    assert '"bug"' not in house.gateway.log
    assert "Traceback" not in house.gateway.log


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"host: x", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"connection: close", b"", body])


def read(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the one answer in `answer`."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length")
    assert length is None or int(length) == len(body), "one answer and no more"
    return int(status_line.split()[1]), headers, body


async def refused(
    house: House, provider: ScriptedServer, request: bytes, status: int, code: str | None = None
) -> tuple[dict[str, str], dict[str, Any]]:
    """`request` gets one error and a closed connection, and the provider hears nothing."""
    found, headers, body = read(await send_raw(house.gateway, request))
    error = openai_error(body)
    assert found == status, error
    assert headers["content-type"] == "application/json"
    assert code is None or error["code"] == code, error
    assert not provider.exchanges
    return headers, error


# ── 31: bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────

BASE = '{"model":"scripted","messages":[{"role":"user","content":"x"}]%s}'
BODIES: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", "invalid_json"),
    "no JSON": (b"hello", "invalid_json"),
    "half": (BASE.encode()[:-20], "invalid_json"),
    "two documents": (BASE.encode() * 2 % (b"", b""), "invalid_json"),
    "a list": (b"[]", "invalid_json"),
    "a text": (b'"model"', "invalid_json"),
    "null": (b"null", "invalid_json"),
    "invalid UTF-8": (BASE.encode().replace(b"x", b"\xff\xfe") % b"", "invalid_json"),
    "UTF-16": ((BASE % "").encode("utf-16"), "invalid_json"),
    "a cut surrogate in UTF-8": (BASE.encode().replace(b'"x"', b'"\xed\xa0\x80"') % b"", "invalid_json"),
    "NaN": ((BASE % ',"temperature":NaN').encode(), "invalid_json"),
    "Infinity": ((BASE % ',"temperature":-Infinity').encode(), "invalid_json"),
    "a comment": ((BASE % "/* */").encode(), "invalid_json"),
    "a bare control character": (BASE.encode().replace(b'"x"', b'"\x00"') % b"", "invalid_json"),
    "100 000 lists deep": (b'{"model":"scripted","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
    "200 000 objects deep": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "invalid_json"),
    "900 deep, unknown field": ((BASE % (',"x":' + "[" * 5000 + "]" * 5000)).encode(), "invalid_json"),
    "an endless number": ((BASE % (',"seed":' + "9" * 100_000)).encode(), "invalid_json"),
    "a number out of range": ((BASE % ',"temperature":1e999').encode(), None),
    "model twice": ((BASE % ',"model":"other"').encode(), "duplicate_field"),
    "stream twice": ((BASE % ',"stream":true,"stream":false').encode(), "duplicate_field"),
    "messages twice": ((BASE % ',"messages":[{"role":"user","content":"y"}]').encode(), "duplicate_field"),
    "model twice, once escaped": ((BASE % ',"mo\\u0064el":"other"').encode(), "model_not_found"),
    "no model": (b'{"messages":[{"role":"user","content":"x"}]}', "missing_model"),
    "no messages": (b'{"model":"scripted"}', None),
    "messages are a text": (b'{"model":"scripted","messages":"x"}', None),
    "messages are empty": (b'{"model":"scripted","messages":[]}', None),
    "a message is null": (b'{"model":"scripted","messages":[null]}', None),
    "a model of another type": (b'{"model":{"$ne":1},"messages":[{"role":"user","content":"x"}]}', None),
    "stream is a text": ((BASE % ',"stream":"true"').encode(), None),
    "stream_options is a list": ((BASE % ',"stream":true,"stream_options":[]').encode(), None),
    "a model that nobody has": (BASE.replace("scripted", "nobody").encode() % b"", "model_not_found"),
    "a model with a line break": (BASE.replace("scripted", "a\\r\\nset-cookie: b").encode() % b"", None),
    "a model with NUL": (BASE.replace("scripted", "a\\u0000").encode() % b"", None),
    "a model with half a character": (BASE.replace("scripted", "\\ud800").encode() % b"", None),
    "a model of 100 kB": (BASE.replace("scripted", "m" * 100_000).encode() % b"", None),
    "a stream that is denied": (
        BASE.replace("scripted", "quiet").encode() % b',"stream":true', "streaming_not_allowed",
    ),
    "a prompt for chat": ((BASE % ',"prompt":"x"').encode(), None),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
async def test_31_a_body_that_cannot_be_used_is_a_400_and_goes_nowhere(
    house: House, provider: ScriptedServer, name: str
) -> None:
    body, code = BODIES[name]
    status = 404 if code == "model_not_found" else 400
    began = trio.current_time()
    await refused(house, provider, post(body), status, code)
    assert trio.current_time() - began < 2


@pytest.mark.parametrize("header", [b"content-type: text/plain", b"content-encoding: gzip", b"content-type: "])
async def test_31_what_does_not_say_that_it_is_json_is_a_415(
    house: House, provider: ScriptedServer, header: bytes
) -> None:
    await refused(house, provider, post((BASE % "").encode(), header), 415, "unsupported_media_type")


async def test_31_a_million_blanks_in_a_message_are_served(house: House, provider: ScriptedServer) -> None:
    blanks = " " * 1_000_000
    answer = await ask(house.gateway, chat(blanks))
    assert (answer.status, answer.text) == (200, "Hello, world.")
    assert provider.exchanges[0].request.json()["messages"][0]["content"] == blanks


@pytest.fixture
def ranks() -> None:
    """Skip, with the reason, where exact counts cannot be had."""
    ranks_folder()


@pytest.mark.usefixtures("ranks")
@pytest.mark.parametrize("filler", [" ", "a", "\n", "^", "字", "0", "\u200d", " \t"])
async def test_31_a_million_of_one_character_are_counted_after_an_abort_and_nobody_waits(
    house: House, filler: str
) -> None:
    """tiktoken's time grows with the square of such a run, and its stack with its length."""
    script = openai_stream(iter(lambda: "word ", None), pause=0.01)
    async with upstream(house.port, script), RawClient("127.0.0.1", house.gateway.port) as client:
        request_id = f"long-{ord(filler[0])}-{len(filler)}"
        await client.post(
            "/v1/chat/completions",
            json=chat("fault" + filler * 1_000_000), headers=[("x-request-id", request_id)],
        )  # fmt: skip
        with trio.fail_after(5):
            await client.read_head()
        await client.fin()
        others = await ask(house.gateway)
        assert (others.text, others.seconds < 1) == ("Hello, world.", True)
        record = await house.gateway.record(request_id, seconds=8)
        assert record["outcome"] == "client_gone"
        assert record["prompt_tokens"] > 1000
        assert record["usage_source"] in ("counted", "estimated")
        await serves(house.gateway)
    assert '"bug"' not in house.gateway.log


async def test_31_a_million_blanks_in_an_answer_are_counted_and_nobody_waits(house: House) -> None:
    pieces = [" " * 5000] * 200
    async with upstream(house.port, openai_stream(pieces)):
        answer = await ask(house.gateway, chat("fault", stream_options={"include_usage": True}))
        assert answer.text == " " * 1_000_000
        assert answer.seconds < 5
        record = await house.gateway.record(answer.request_id)
        assert (record["outcome"], record["completion_tokens"] > 100) == ("completed", True)


async def test_31_a_body_of_many_small_things_is_served_quickly(house: House, provider: ScriptedServer) -> None:
    """A hundred thousand keys, a hundred thousand messages, and "model" a hundred thousand times deeper down."""
    for fields in (
        chat() | {f"k{number}": number for number in range(100_000)},
        chat() | {"messages": [{"role": "user", "content": "x"}] * 100_000},
        chat(metadata=[{"model": "x"}] * 100_000),
    ):
        answer = await ask(house.gateway, fields)
        assert (answer.status, answer.seconds < 3) == (200, True)


# ── 30, 33: sizes ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_30_a_body_above_the_limit_is_a_413(house: House, provider: ScriptedServer) -> None:
    body = json.dumps(chat(" " * (11 * 2**20))).encode()
    await refused(house, provider, post(body), 413, "body_too_large")
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (body[at : at + 65536] for at in range(0, len(body), 65536))
    )
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    await refused(house, provider, head + chunks + b"0\r\n\r\n", 413, "body_too_large")


async def test_30_who_asks_first_is_refused_before_the_body(house: House, provider: ScriptedServer) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n\r\n"
    await refused(house, provider, head, 413, "body_too_large")


async def test_30_who_asks_first_is_told_to_go_on(house: House, provider: ScriptedServer) -> None:
    body = json.dumps(chat()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
    with trio.fail_after(5):
        async with RawClient("127.0.0.1", house.gateway.port) as client:
            await client.send(head % len(body))
            assert (await client.read_head()).status == 100
            await client.send(body)
            assert (await client.read_head()).status == 200
            assert text_of(b"".join(piece.data for piece in await client.read_body())) == "Hello, world."


@pytest.mark.parametrize(
    "headers",
    [
        [b"x: " + b"y" * 100_000],
        [b"x%d: y" % number for number in range(10_000)],
        [b"x: y"] * 20_000,
        [b"y" * 100_000 + b": x"],
        [b"cookie: " + b"a=b; " * 8000],
    ],
    ids=["one long", "many", "one many times", "a long name", "cookies of 40 kB"],
)
async def test_33_a_head_above_the_limit_is_a_431(house: House, provider: ScriptedServer, headers: list[bytes]) -> None:
    await refused(house, provider, post((BASE % "").encode(), *headers), 431, "headers_too_large")


async def test_33_a_target_above_the_limit_is_refused(house: House, provider: ScriptedServer) -> None:
    await refused(house, provider, post(b"{}", path=b"/v1/" + b"x" * 100_000), 431)


async def test_33_a_head_that_never_ends_is_a_431(house: House, provider: ScriptedServer) -> None:
    answer = await send_raw(house.gateway, b"GET / HTTP/1.1\r\n", *[b"x: " + b"y" * 1000 + b"\r\n"] * 500)
    status, _, body = read(answer)
    assert (status, openai_error(body)["code"]) == (431, "headers_too_large")


# ── 32: smuggling ────────────────────────────────────────────────────────────────────────────────────────────────────

PLAIN = (BASE % "").encode()
HIDDEN = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"


def lines(*headers: bytes, body: bytes = PLAIN, first: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    return b"\r\n".join([first, *headers, b"", body])


HOST = b"host: x"
STATUS_LINE = re.compile(rb"HTTP/1\.1 \d{3} ")
LENGTH = b"content-length: %d" % len(PLAIN)
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PLAIN), PLAIN)
SMUGGLED: dict[str, bytes] = {
    "CL and TE": lines(HOST, LENGTH, b"transfer-encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE and CL": lines(HOST, b"transfer-encoding: chunked", b"content-length: 5", body=CHUNKED),
    "two CL that differ": lines(HOST, LENGTH, b"content-length: 1"),
    "a list of CL that differ": lines(HOST, b"content-length: %d, 1" % len(PLAIN)),
    "CL with a sign": lines(HOST, b"content-length: +%d" % len(PLAIN)),
    "CL that is negative": lines(HOST, b"content-length: -1"),
    "CL in hex": lines(HOST, b"content-length: 0x10"),
    "CL that is huge": lines(HOST, b"content-length: " + b"9" * 5000),
    "CL with an underscore": lines(HOST, b"content-length: 1_0"),
    "CL in other digits": lines(HOST, "content-length: ١٢".encode()),
    "CL empty": lines(HOST, b"content-length: "),
    "two TE": lines(HOST, b"transfer-encoding: chunked", b"transfer-encoding: identity", body=CHUNKED),
    "TE chunked twice": lines(HOST, b"transfer-encoding: chunked, chunked", body=CHUNKED),
    "TE that nobody knows": lines(HOST, b"transfer-encoding: gzip, chunked", body=CHUNKED),
    "TE with a letter too many": lines(HOST, b"transfer-encoding: xchunked", body=CHUNKED),
    "TE with a vertical tab": lines(HOST, b"transfer-encoding:\x0bchunked", body=CHUNKED),
    "a blank before the colon": lines(HOST, b"content-length : %d" % len(PLAIN)),
    "a bare CR in a header": lines(HOST, b"x: a\rtransfer-encoding: chunked", LENGTH),
    "NUL in a header": lines(HOST, b"x: a\0b", LENGTH),
    "no host": lines(LENGTH),
    "two hosts": lines(HOST, b"host: y", LENGTH),
    "a bad chunk size": lines(HOST, b"transfer-encoding: chunked", body=b"zz\r\n" + PLAIN),
    "a chunk size with a sign": lines(HOST, b"transfer-encoding: chunked", body=b"+5\r\nhello\r\n0\r\n\r\n"),
    "a huge chunk size": lines(HOST, b"transfer-encoding: chunked", body=b"F" * 30 + b"\r\n" + PLAIN),
    "a chunk that is longer than it says": lines(HOST, b"transfer-encoding: chunked", body=b"2\r\nhello\r\n0\r\n\r\n"),
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "h2c": lines(
        HOST, LENGTH, b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__",
    ),
    "HTTP/1.1 in another version": lines(HOST, LENGTH, first=b"POST /v1/chat/completions HTTP/2.0"),
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
    "SMTP": b"EHLO x\r\n\r\n",
    "a blank in the target": lines(HOST, LENGTH, first=b"POST /v1/chat completions HTTP/1.1"),
    "no method": lines(HOST, LENGTH, first=b" /v1/chat/completions HTTP/1.1"),
    "UTF-8 in the target": lines(HOST, LENGTH, first="POST /v1/chät HTTP/1.1".encode()),
    "UTF-8 in a header's name": lines(HOST, "ü: x".encode(), LENGTH),
}  # fmt: skip


@pytest.mark.parametrize("name", SMUGGLED)
async def test_32_what_two_parsers_could_read_differently_is_refused_and_the_connection_closed(
    house: House, provider: ScriptedServer, name: str
) -> None:
    """What follows on the connection is not served."""
    headers, _ = await refused(house, provider, SMUGGLED[name] + HIDDEN, 400)
    assert headers["connection"] == "close"


async def test_32_the_same_length_twice_is_one_length_or_refused(house: House, provider: ScriptedServer) -> None:
    answer = await send_raw(house.gateway, lines(HOST, LENGTH, LENGTH, b"connection: close"))
    assert len(STATUS_LINE.findall(answer)) == 1
    assert answer[9:12] in (b"200", b"400")


async def test_32_a_folded_header_is_one_header(house: House, provider: ScriptedServer) -> None:
    """RFC 9112 section 5.2 leaves the choice between a 400 and a blank in its place."""
    folded = lines(HOST, b"x: a\r\n transfer-encoding: chunked", LENGTH, b"connection: close") + HIDDEN
    answer = await send_raw(house.gateway, folded)
    assert len(STATUS_LINE.findall(answer)) == 1
    assert answer[9:12] in (b"200", b"400")


async def test_32_bare_line_feeds_do_not_make_two_requests(house: House, provider: ScriptedServer) -> None:
    request = b"GET /healthz HTTP/1.1\nhost: x\nx: y\n\n"
    answer = await send_raw(house.gateway, request + b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert len(STATUS_LINE.findall(answer)) in (1, 2)


# ── 33, 50: methods and paths ────────────────────────────────────────────────────────────────────────────────────────

PATHS: dict[str, tuple[bytes, int]] = {
    "unknown": (b"POST /v1/chat HTTP/1.1", 404),
    "the root": (b"GET / HTTP/1.1", 404),
    "a slash at the end": (b"POST /v1/chat/completions/ HTTP/1.1", 404),
    "two slashes": (b"POST //v1/chat/completions HTTP/1.1", 404),
    "upper case": (b"POST /V1/chat/completions HTTP/1.1", 404),
    "dots": (b"GET /v1/../v1/models HTTP/1.1", 404),
    "dots to the outside": (b"GET /../../etc/passwd HTTP/1.1", 404),
    "dots in a file": (b"GET /v1/files/../../etc/passwd HTTP/1.1", 404),
    "dots, encoded": (b"GET /v1/%2e%2e/v1/models HTTP/1.1", 404),
    "dots, encoded twice": (b"GET /v1/%252e%252e/v1/models HTTP/1.1", 404),
    "a slash, encoded": (b"GET /v1%2fmodels HTTP/1.1", 404),
    "a letter, encoded": (b"GET /v1/model%73 HTTP/1.1", 404),
    "NUL, encoded": (b"GET /v1/models%00 HTTP/1.1", 404),
    "NUL, raw": (b"GET /v1/models\0 HTTP/1.1", 400),
    "a backslash": (b"GET /v1\\models HTTP/1.1", 404),
    "parameters": (b"GET /v1/models;x=y HTTP/1.1", 404),
    "a model with dots": (b"GET /v1/models/../../healthz HTTP/1.1", 404),
    "a model with NUL": (b"GET /v1/models/%00 HTTP/1.1", 404),
    "a model with broken UTF-8": (b"GET /v1/models/%ff%fe HTTP/1.1", 404),
    "an admin path": (b"GET /metrics HTTP/1.1", 404),
    "another admin path": (b"GET /exchanges HTTP/1.1", 404),
    "absolute form": (b"POST http://169.254.169.254/v1/chat/completions HTTP/1.1", 404),
    "absolute form of this host": (b"GET http://x/v1/models HTTP/1.1", 404),
    "an authority": (b"CONNECT example.com:443 HTTP/1.1", 404),
    "CONNECT of a path": (b"CONNECT /v1/chat/completions HTTP/1.1", 405),
    "a star": (b"OPTIONS * HTTP/1.1", 404),
    "OPTIONS": (b"OPTIONS /v1/chat/completions HTTP/1.1", 405),
    "TRACE": (b"TRACE /v1/chat/completions HTTP/1.1", 405),
    "GET of a POST": (b"GET /v1/chat/completions HTTP/1.1", 405),
    "PUT": (b"PUT /v1/completions HTTP/1.1", 405),
    "POST of a GET": (b"POST /v1/models HTTP/1.1", 405),
    "DELETE of a model": (b"DELETE /v1/models/scripted HTTP/1.1", 405),
    "GET of a route": (b"GET /my-chat HTTP/1.1", 405),
    "a method that nobody has": (b"BREW /v1/models HTTP/1.1", 400),
    "a method in lower case": (b"post /v1/models HTTP/1.1", 400),
    "a method of 1000 letters": (b"X" * 1000 + b" /v1/models HTTP/1.1", 400),
}


@pytest.mark.parametrize("name", PATHS)
async def test_33_50_the_table_of_paths_and_methods_is_exact(house: House, provider: ScriptedServer, name: str) -> None:
    first, status = PATHS[name]
    request = b"\r\n".join([first, HOST, LENGTH, b"connection: close", b"", PLAIN])
    headers, error = await refused(house, provider, request, status)
    if status == 405:
        assert headers["allow"] in ("GET", "POST")
        assert error["code"] == "method_not_allowed"


async def test_a_websocket_is_not_spoken(house: House, provider: ScriptedServer) -> None:
    upgrade = lines(
        HOST, b"connection: Upgrade, close", b"upgrade: websocket", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        b"sec-websocket-version: 13", body=b"", first=b"GET /v1/chat/completions HTTP/1.1",
    )  # fmt: skip
    await refused(house, provider, upgrade, 405)


async def test_34_hostile_connections_do_not_disturb_a_running_stream(house: House) -> None:
    script = openai_stream([f"{number} " for number in range(60)], pause=0.02)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\4\3\0\0\0\0\1\0\0\0\0" * 1000
    async with upstream(house.port, script), RawClient("127.0.0.1", house.gateway.port) as client:
        await client.post("/v1/chat/completions", json=chat("fault"))
        await client.read_head()
        async with trio.open_nursery() as nursery:
            for attack in (preface, *SMUGGLED.values()):
                nursery.start_soon(send_raw, house.gateway, attack + HIDDEN)
        body = b"".join(piece.data for piece in await client.read_body())
        assert text_of(body) == "".join(f"{number} " for number in range(60))
        assert data_of(body)[-1] == b"[DONE]"
        await serves(house.gateway)
    await idle(house.gateway)


async def test_a_route_with_a_model_serves_without_one_and_refuses_another(
    house: House, provider: ScriptedServer
) -> None:
    fields = chat()
    del fields["model"]
    assert (await ask(house.gateway, fields, path="/my-chat")).text == "Hello, world."
    assert (await ask(house.gateway, path="/my-chat")).status == 200
    answer = await ask(house.gateway, chat(model="quiet"), path="/my-chat")
    assert (answer.status, answer.error["param"]) == (400, "model")
    assert len(provider.exchanges) == 2


async def test_a_completion_is_served_too(house: House) -> None:
    chunk = b'data: {"id":"x","choices":[{"index":0,"text":"Hello","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    script = Script(steps=lambda: iter([Step(0, chunk)]))
    async with upstream(house.port, script) as server:
        answer = await ask(
            house.gateway, {"model": "scripted", "prompt": "fault", "stream": True}, path="/v1/completions"
        )
        assert (answer.status, answer.data[-1]) == (200, b"[DONE]")
        assert server.exchanges[0].request.path == "/v1/completions"
