"""What a provider can do wrong, played on real sockets against the real command. Numbers are those of docs/faults.md.

Each fault gives its own status or one error in band, never `[DONE]`; it costs nobody else anything; and the gateway
serves again at once.
"""

from __future__ import annotations

import gzip
import json
import ssl
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from support.raw_server import CHUNKED, END, BlackHole, Peer, chunk, raw_server, whole
from support.standing import (
    DONE,
    HeldPort,
    ask,
    chat,
    eventually,
    idle,
    serves,
    standing,
    text_of,
    upstream,
    wire,
)  # fmt: skip

from trio_ai_proxy.testing import RawClient, Script, ScriptedServer, Step, WireScript, openai_error, openai_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.command import Command

pytestmark = pytest.mark.process

KEY = "sk-upstream-marker-4711"
FAULT = chat("fault")


@dataclass(frozen=True)
class House:
    gateway: Command
    port: HeldPort
    tls_port: HeldPort
    authority: trustme.CA


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    port, tls_port, hole, authority = HeldPort(), HeldPort(), BlackHole(), trustme.CA()
    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    config = f"""
[timeouts]
connect = 0.5
first_token = 0.6
idle = 0.5
total = 20
[providers.scripted]
kind = "openai"
base_url = "{port.url}/v1"
api_key = "{KEY}"
[providers.hole]
kind = "openai"
base_url = "http://127.0.0.1:{hole.port}/v1"
api_key = "{KEY}"
[providers.tls]
kind = "openai"
base_url = "https://localhost:{tls_port.number}/v1"
api_key = "{KEY}"
ca_file = "{ca_file}"
[models]
scripted.targets = [{{ provider = "scripted", model = "scripted" }}]
hole.targets = [{{ provider = "hole", model = "hole" }}]
tls.targets = [{{ provider = "tls", model = "tls" }}]
brief.targets = [{{ provider = "scripted", model = "scripted" }}]
brief.timeouts.total = 1
# One attempt: what each fault is to the client. What a second attempt makes of it: tests/process/test_failover.py.
scripted.retries = 0
scripted.malformed_limit = 0
hole.retries = 0
tls.retries = 0
brief.retries = 0
"""
    with closing(port), closing(tls_port), closing(hole), standing(config) as gateway:
        yield House(gateway, port, tls_port, authority)


@pytest.fixture(autouse=True)
async def _afterwards(house: House) -> AsyncIterator[None]:
    """Whatever was played: nothing is left of it, it is not a bug, and the next request is served."""
    yield
    with trio.fail_after(20):
        await idle(house.gateway)
        async with upstream(house.port):
            await serves(house.gateway)
    assert '"bug"' not in house.gateway.log
    assert "Traceback" not in house.gateway.log
    assert KEY not in house.gateway.log


def steps(*chunks: bytes) -> Any:
    return lambda: iter([Step(0.0, chunk) for chunk in chunks])


def page(body: bytes, content_type: str, *more: tuple[str, str], status: int = 200) -> Script:
    return Script(status=status, headers=(("content-type", content_type), *more), steps=steps(body))


def endless(data: bytes, *, pause: float = 0.0) -> Any:
    def give() -> Iterator[Step]:
        while True:
            yield Step(pause, data)

    return give


def is_released(server: ScriptedServer) -> bool:
    """The one exchange's connection is closed; it may only be kept where the answer came to its end."""
    return server.open_connections <= int(server.exchanges[0].is_complete)


TOKEN = b'data: {"id":"x","model":"scripted","choices":[{"index":0,"delta":{"content":"one "}}]}\n\n'
ROLE = b'data: {"id":"x","model":"scripted","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
JSON_ANSWER = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "secret page"}, "finish_reason": "stop"}]}
).encode()

# Before the first token a fault has a status of its own: name → (script, status, code, outcome).
EARLY: dict[str, tuple[Script, int, str, str]] = {
    "04 silence before the head": (Script(head_pause=60), 504, "timeout_first_token", "timeout_first_token"),
    "04 silence after the head": (Script(ending="stall"), 504, "timeout_first_token", "timeout_first_token"),
    "06 reset after the request": (Script(refuse=True), 502, "upstream_refused", "upstream_error"),
    "06 closed in place of a head": (
        WireScript(instead_of_head=b""), 502, "upstream_truncated", "upstream_truncated",
    ),
    "06 cut before the first token": (
        wire(Script(steps=steps(ROLE)), ending="cut"), 502, "upstream_truncated", "upstream_truncated",
    ),
    "06 bad chunk size before the first token": (
        wire(Script(steps=steps(ROLE)), instead_of_end=b"xyz\r\n"), 502, "upstream_protocol_error", "upstream_error",
    ),
    "07 garbage in place of HTTP": (
        WireScript(instead_of_head=b"\x16\x03\x01\x00\xffnonsense\r\n\r\n"),
        502, "upstream_protocol_error", "upstream_error",
    ),
    "07 another protocol": (
        WireScript(instead_of_head=b"220 mail.example ESMTP\r\n", ending="stall"),
        502, "upstream_protocol_error", "upstream_error",
    ),
    "07 a head without end": (
        WireScript(instead_of_head=b"HTTP/1.1 200 OK\r\n", steps=endless(b"x-filler: " + b"y" * 8000 + b"\r\n")),
        502, "upstream_protocol_error", "upstream_error",
    ),
    "09 status 500": (openai_error(500), 502, "upstream_status", "upstream_error"),
    "09 status 503": (openai_error(503), 503, "upstream_status", "upstream_error"),
    "09 status 529": (openai_error(529, code="overloaded"), 529, "overloaded", "upstream_error"),
    "09 status 500 with an endless page": (
        Script(status=500, headers=(("content-type", "text/html"),), steps=endless(b"<p>" * 5000)),
        502, "upstream_status", "upstream_error",
    ),
    "11 an error first in a 200": (openai_error(200, code="overloaded"), 502, "overloaded", "upstream_error"),
    "13 comments and never a token": (
        Script(steps=endless(b": ping\n\n", pause=0.1)), 504, "timeout_first_token", "timeout_first_token",
    ),
    "13 role chunks and never a token": (
        Script(steps=endless(ROLE, pause=0.1)), 504, "timeout_first_token", "timeout_first_token",
    ),
    "14 a line without end": (
        Script(steps=endless(b"data: " + b"x" * 65530)), 502, "upstream_protocol_error", "upstream_error",
    ),
    "16 a captive portal": (page(b"<html>secret page</html>", "text/html"), 502, "upstream_protocol_error",
                            "upstream_error"),
    "16 JSON where a stream was asked for": (
        page(JSON_ANSWER, "application/json"), 502, "upstream_protocol_error", "upstream_error",
    ),
    "16 no content type": (Script(headers=(), steps=steps(TOKEN)), 502, "upstream_protocol_error", "upstream_error"),
    "17 a compressed stream": (
        page(gzip.compress(TOKEN + b"data: [DONE]\n\n"), "text/event-stream", ("content-encoding", "gzip")),
        502, "upstream_protocol_error", "upstream_error",
    ),
    "17 a bomb": (
        Script(headers=(("content-type", "text/event-stream"), ("content-encoding", "gzip")),
               steps=endless(b"\0" * 65536)),
        502, "upstream_protocol_error", "upstream_error",
    ),
    "17 a bomb with an error status": (
        Script(status=500, headers=(("content-type", "application/json"), ("content-encoding", "gzip")),
               steps=endless(b"\0" * 65536)),
        502, "upstream_status", "upstream_error",
    ),
    "19 a head and no more": (Script(), 502, "upstream_truncated", "upstream_truncated"),
    "19 no terminal before a token": (Script(steps=steps(ROLE)), 502, "upstream_truncated", "upstream_truncated"),
    "20 status 204": (page(b"", "text/event-stream", status=202), 502, "upstream_protocol_error", "upstream_error"),
}  # fmt: skip


@pytest.mark.parametrize("name", EARLY)
async def test_before_the_first_token_a_fault_has_a_true_status(house: House, name: str) -> None:
    script, status, code, outcome = EARLY[name]
    memory = house.gateway.rss_kib()
    async with upstream(house.port, script) as server:
        answer = await ask(house.gateway, FAULT)
        assert (answer.status, answer.error["code"]) == (status, code), answer.error
        assert b"secret page" not in answer.body
        assert len(server.exchanges) == 1, "not tried again"
        record = await house.gateway.record(answer.request_id)
        assert (record["outcome"], record["status"], record["completion_tokens"]) == (outcome, status, 0)
        with trio.fail_after(2):
            await server.exchanges[0].over.wait()
        await eventually(lambda: is_released(server))
    assert house.gateway.rss_kib() - memory < 40_000


MIDDLE: dict[str, tuple[Script, str, str]] = {
    "05 silence": (openai_stream("abc", ends=False, ending="stall"), "timeout_idle", "timeout_idle"),
    "06 FIN inside a chunk": (
        wire(openai_stream("abc", ends=False), ending="cut"), "upstream_truncated", "upstream_truncated",
    ),
    "06 FIN between two chunks": (
        wire(openai_stream("abc", ends=False), ending="cut", cut_inside=False),
        "upstream_truncated", "upstream_truncated",
    ),
    "06 RST inside a chunk": (
        wire(openai_stream("abc", ends=False, pause=0.05), ending="cut", cut="rst"),
        "upstream_truncated", "upstream_truncated",
    ),
    "06 bad chunk size": (
        wire(openai_stream("abc", ends=False), instead_of_end=b"-5\r\n"), "upstream_protocol_error", "upstream_error",
    ),
    "06 huge chunk size": (
        wire(openai_stream("abc", ends=False), instead_of_end=b"F" * 40 + b"\r\n"),
        "upstream_protocol_error", "upstream_error",
    ),
    "06 shorter than announced": (
        wire(openai_stream("abc", ends=False), framing="length", ending="cut"),
        "upstream_truncated", "upstream_truncated",
    ),
    "11 an error in the middle": (
        Script(steps=steps(ROLE, TOKEN, b'data: {"error":{"message":"overloaded","type":"server_error","code":"busy"}}\n\n')),
        "busy", "upstream_error",
    ),
    "14 a line without end": (
        Script(steps=lambda: iter([Step(0, TOKEN), *[Step(0, b"data: " + b"x" * 65530)] * 80])),
        "upstream_protocol_error", "upstream_error",
    ),
    "16 what is no JSON": (Script(steps=steps(TOKEN, b"data: <html>\n\n")), "upstream_protocol_error", "upstream_error"),
    "19 no terminal": (openai_stream("abc", ends=False), "upstream_truncated", "upstream_truncated"),
    "19 no terminal, until closed": (
        wire(openai_stream("abc", ends=False), framing="until-close"), "upstream_truncated", "upstream_truncated",
    ),
    "19 half a frame": (
        wire(Script(steps=steps(ROLE, TOKEN, TOKEN[:30])), framing="until-close"),
        "upstream_truncated", "upstream_truncated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIDDLE)
async def test_after_the_first_token_a_fault_is_one_error_in_band_and_no_end(house: House, name: str) -> None:
    script, code, outcome = MIDDLE[name]
    async with upstream(house.port, script) as server:
        answer = await ask(house.gateway, FAULT)
        assert answer.status == 200
        assert answer.error["code"] == code, answer.error
        assert b'"finish_reason":"' not in answer.body, "no made-up finish reason"
        assert answer.text in ("abc", "one "), "all that came before is kept"
        record = await house.gateway.record(answer.request_id)
        assert (record["outcome"], record["status"], record["phase"]) == (outcome, 200, "streaming")
        assert record["completion_tokens"] >= 1, "what was produced is on the books"
        assert record["usage_source"] in ("counted", "estimated")
        await eventually(lambda: is_released(server))


async def test_1_refused_is_a_502_at_once_and_it_is_served_as_soon_as_the_provider_is_back(house: House) -> None:
    async with upstream(house.port) as server:
        await serves(house.gateway)
        await server.refuse_connections()
    for _ in range(5):
        answer = await ask(house.gateway)
        assert (answer.status, answer.error["code"]) == (502, "upstream_refused")
        assert answer.seconds < 1
    async with upstream(house.port):
        await serves(house.gateway)


async def test_2_a_black_hole_is_a_504_within_the_connect_deadline_and_costs_no_file(house: House) -> None:
    await idle(house.gateway)
    before = house.gateway.open_files()
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(_fall_into_the_hole, house.gateway)
    await eventually(lambda: house.gateway.open_files() <= before)


async def _fall_into_the_hole(gateway: Command) -> None:
    answer = await ask(gateway, chat(model="hole"))
    assert (answer.status, answer.error["code"]) == (504, "timeout_connect")
    assert 0.45 < answer.seconds < 2
    assert (await gateway.record(answer.request_id))["outcome"] == "timeout_connect"


def server_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def answer_well(peer: Peer) -> None:
    while await peer.request():
        stream = TOKEN + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        await peer.send(CHUNKED + chunk(stream) + END)


async def test_3_with_the_right_certificate_tls_serves(house: House) -> None:
    tls = server_tls(house.authority, "localhost")
    async with raw_server(answer_well, tls=tls, port=house.tls_port.number) as server:
        answer = await ask(house.gateway, chat(model="tls"))
        assert (answer.status, answer.data[-1]) == (200, DONE)
        assert KEY.encode() in server.requests[0]


@pytest.mark.parametrize("fault", ["a wrong name", "an unknown authority", "plain HTTP", "nothing at all"])
async def test_3_where_tls_fails_it_is_a_502_and_the_key_is_never_sent(house: House, fault: str) -> None:
    heard = b""

    async def listen_only(peer: Peer) -> None:
        nonlocal heard
        stream = peer._stream
        heard += await stream.receive_some()
        if fault == "plain HTTP":
            await peer.send(whole(b"Client sent an HTTP request to an HTTPS server.", status=b"400 Bad Request"))

    tls = {
        "a wrong name": server_tls(house.authority, "other.example"),
        "an unknown authority": server_tls(trustme.CA(), "localhost"),
    }.get(fault)
    handler = listen_only if tls is None else answer_well
    async with raw_server(handler, tls=tls, port=house.tls_port.number) as server:
        answer = await ask(house.gateway, chat(model="tls"))
        assert (answer.status, answer.error["code"]) == (502, "upstream_refused")
        record = await house.gateway.record(answer.request_id)
        assert record["outcome"] == "upstream_error"
        assert record["detail"], "the cause is on the books"
        assert not server.requests
        assert KEY.encode() not in heard
        assert KEY.encode() not in answer.body


@pytest.mark.parametrize("stream", [True, False])
async def test_8_a_rate_limit_passes_with_its_retry_after_and_is_not_tried_again(house: House, stream: bool) -> None:
    script = openai_error(
        429, "Rate limit reached.", type="requests", code="rate_limit_exceeded", headers=[("retry-after", "17")]
    )
    async with upstream(house.port, script) as server:
        answer = await ask(house.gateway, chat("fault", stream=stream))
        assert answer.status == 429
        assert answer.header("retry-after") == "17"
        assert answer.error == {
            "message": "Rate limit reached.", "type": "requests", "param": None, "code": "rate_limit_exceeded",
        }  # fmt: skip
        assert len(server.exchanges) == 1


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("stream", [True, False])
async def test_10_a_refusal_of_our_key_is_a_502_without_the_key(house: House, status: int, stream: bool) -> None:
    script = openai_error(status, f"Incorrect API key provided: {KEY}.", code="invalid_api_key", param=KEY)
    async with upstream(house.port, script):
        answer = await ask(house.gateway, chat("fault", stream=stream))
        assert answer.status == 502
        assert answer.error["message"]
        assert KEY.encode() not in answer.body
        record = await house.gateway.record(answer.request_id)
        assert record["outcome"] == "upstream_error"
        assert KEY not in json.dumps(record)


async def test_12_the_idle_deadline_is_by_event_and_bytes_alone_do_not_push_it(house: House) -> None:
    slow = openai_stream(["abc", "def"], ends=False, ending="stall")
    chunks = [step.chunk for step in slow.steps()]

    def drip() -> Iterator[Step]:
        yield Step(0, chunks[0] + chunks[1])
        for at in range(len(chunks[2])):  # some 150 bytes, one each 50 ms
            yield Step(0.05, chunks[2][at : at + 1])

    async with upstream(house.port, Script(steps=drip)) as server:
        answer = await ask(house.gateway, FAULT)
        assert (answer.text, answer.error["code"]) == ("abc", "timeout_idle")
        assert answer.seconds < 2
        with trio.fail_after(1):
            await server.exchanges[0].over.wait()


@pytest.mark.parametrize("pause", [0.2, 0.0], ids=["12 slow", "15 fast"])
async def test_an_endless_stream_ends_by_the_total_deadline(house: House, pause: float) -> None:
    async with upstream(house.port, Script(steps=endless(TOKEN * 20, pause=pause))) as server:
        answer = await ask(house.gateway, chat("fault", model="brief"))
        assert answer.error["code"] == "timeout_total"
        assert 0.9 < answer.seconds < 3
        record = await house.gateway.record(answer.request_id)
        assert (record["outcome"], record["completion_tokens"] > 50) == ("timeout_total", True)
        with trio.fail_after(1):
            await server.exchanges[0].over.wait()


async def test_15_a_one_shot_answer_that_never_ends_is_bounded(house: House) -> None:
    script = Script(headers=(("content-type", "application/json"),), steps=endless(b'{"x": "' + b"y" * 65000))
    memory = house.gateway.rss_kib()
    async with upstream(house.port, script):
        answer = await ask(house.gateway, chat("fault", stream=False))
        assert (answer.status, answer.error["code"]) == (502, "upstream_protocol_error")
    assert house.gateway.rss_kib() - memory < 120_000


TWICE = openai_stream("abc", usage=(3, 3))


@pytest.mark.parametrize(
    "script",
    [
        Script(steps=lambda: iter([*TWICE.steps(), Step(0, b"data: [DONE]\n\n")])),
        Script(steps=lambda: iter([*TWICE.steps(), Step(0.05, TOKEN), Step(0.05, b"data: [DONE]\n\n")])),
        Script(steps=lambda: iter([*TWICE.steps(), Step(0, b'data: {"error":{"message":"too late"}}\n\n')])),
        Script(steps=lambda: iter([*TWICE.steps(), *[Step(0, TOKEN)] * 1000])),
        wire(TWICE, after_end=b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nghost"),
        wire(TWICE, ending="stall"),
        wire(TWICE, ending="cut"),
    ],
    ids=[
        "doubled",
        "token after it",
        "error after it",
        "much after it",
        "a second answer",
        "left open",
        "cut after it",
    ],
)
async def test_18_there_is_one_terminal_whatever_follows_it(house: House, script: Script) -> None:
    async with upstream(house.port, script):
        answer = await ask(house.gateway, FAULT)
        assert (answer.status, answer.text) == (200, "abc")
        assert answer.data.count(DONE) == 1
        assert answer.data[-1] == DONE
        record = await house.gateway.record(answer.request_id)
        assert (record["outcome"], record["completion_tokens"], record["usage_source"]) == ("completed", 3, "provider")
        await serves(house.gateway)


async def test_19_a_stream_whose_finish_reason_came_is_whole_without_done(house: House) -> None:
    async with upstream(house.port, openai_stream("abc", done=False)):
        answer = await ask(house.gateway, FAULT)
        assert (answer.text, answer.data[-1], answer.data.count(DONE)) == ("abc", DONE, 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_20_a_redirect_is_a_502_and_not_followed(house: House, status: int) -> None:
    async with raw_server(answer_well) as elsewhere:
        script = page(b"", "text/event-stream", ("location", f"{elsewhere.origin}/v1/chat/completions"), status=status)
        async with upstream(house.port, script):
            answer = await ask(house.gateway, FAULT)
        assert (answer.status, answer.error["code"]) == (502, "upstream_protocol_error")
        assert elsewhere.origin.encode() not in answer.body
        await trio.sleep(0.1)
        assert not elsewhere.peers


@pytest.mark.parametrize("how", ["closed while idle", "closed by the request", "reset by the request"])
async def test_21_a_stale_connection_is_one_retry_that_nobody_sees(house: House, how: str) -> None:
    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(TOKEN + b"data: [DONE]\n\n") + END)
        if how == "closed while idle":
            return
        if await peer.request() and how == "reset by the request":
            peer.reset()

    async with raw_server(once, port=house.port.number) as server:
        for _ in range(4):
            answer = await ask(house.gateway)
            assert (answer.status, answer.text, answer.data[-1]) == (200, "one ", DONE)
            await trio.sleep(0.05)
        assert len(server.peers) == 4


async def test_21_a_fresh_connection_that_fails_is_not_tried_again(house: House) -> None:
    async def never(peer: Peer) -> None:
        await peer.request()

    async with raw_server(never, port=house.port.number) as server:
        answer = await ask(house.gateway)
        assert answer.status == 502
        assert len(server.peers) == 1


async def test_in_one_piece_a_fault_is_a_status_too(house: House) -> None:
    faults = {
        "cut": (wire(page(b'{"choices":', "application/json"), framing="length", ending="cut"), 502),
        "html": (page(b"<html>secret page</html>", "text/html"), 502),
        "no JSON": (page(b"{", "application/json"), 502),
        "error in a 200": (page(b'{"error":{"message":"no","type":"server_error"}}', "application/json"), 502),
        "a stream": (openai_stream("abc"), 502),
        "silence": (page(b"", "application/json"), 502),
    }
    for name, (script, status) in faults.items():
        async with upstream(house.port, script):
            answer = await ask(house.gateway, chat("fault", stream=False))
            assert (answer.status, b"secret page" in answer.body) == (status, False), name
            assert answer.error["message"], name


async def test_one_faulty_stream_costs_the_others_nothing(house: House) -> None:
    texts: list[str] = []

    async def well_served() -> None:
        async with RawClient("127.0.0.1", house.gateway.port) as client:
            await client.post("/v1/chat/completions", json=chat("steady"))
            await client.read_head()
            texts.append(text_of(b"".join(piece.data for piece in await client.read_body())))

    async def faulty() -> None:
        await ask(house.gateway, FAULT)

    script = wire(openai_stream("abc", ends=False), ending="cut", cut="rst")
    with trio.fail_after(20):
        async with upstream(house.port, script), trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(faulty)
                nursery.start_soon(well_served)
    assert texts == ["Hello, world."] * 30
