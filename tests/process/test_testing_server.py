"""The scripted upstream and the raw client on real sockets: each fault is the one that was asked for."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_ai_proxy.testing import RawClient, ScriptedServer, Step, WireScript, no_leaks, openai_error, openai_stream
from trio_ai_proxy.testing.raw import BodyCut, Head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ai_proxy.testing import Script

FIVE = [Step(0, b"12345"), Step(0, b"67890")]


def in_time(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """No socket holds a test up for ever."""

    @functools.wraps(test)
    async def limited(**fixtures: Any) -> None:
        with trio.fail_after(30):
            await test(**fixtures)

    return limited


def client_of(server: ScriptedServer, **options: Any) -> RawClient:
    return RawClient("127.0.0.1", server.port, **options)


async def fetch(script: Script) -> tuple[Head, bytes]:
    async with ScriptedServer(script) as server, client_of(server) as client:
        await client.post("/", json={})
        head = await client.read_head()
        return head, b"".join(chunk.data for chunk in await client.read_body())


@in_time
async def test_a_script_is_played_in_chunks_and_the_connection_used_again() -> None:
    async with no_leaks(), ScriptedServer(openai_stream(["a", "b"])) as server, client_of(server) as client:
        for _ in range(3):
            await client.post("/v1/chat/completions", json={"model": "m"}, headers=[("X-Id", "7")])
            head = await client.read_head()
            chunks = await client.read_body()
            assert head.header("content-type") == "text/event-stream"
            assert len(chunks) == 5
        assert server.connections == 1
        assert server.url == f"http://127.0.0.1:{server.port}"
    for exchange in server.exchanges:
        assert exchange.is_complete
        assert exchange.over.is_set()
        assert exchange.released_at is None
        assert exchange.chunks_sent == 5
        assert exchange.request.method == "POST"
        assert exchange.request.path == "/v1/chat/completions"
        assert exchange.request.header("x-id") == "7"
        assert exchange.request.json() == {"model": "m"}
    assert len(server.exchanges) == 3


@in_time
async def test_a_chunked_request_is_read_too() -> None:
    async with ScriptedServer(openai_stream([])) as server, client_of(server) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        await client.send(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\ntrailer: z\r\n\r\n")
        await client.read_head()
    assert server.exchanges[0].request.body == b"abcde"


@pytest.mark.parametrize("leave", ["fin", "rst"])
@pytest.mark.parametrize("phase", ["before-head", "mid-stream", "silent"])
@in_time
async def test_the_departure_of_the_other_side_is_seen_at_once(leave: str, phase: str) -> None:
    scripts = {
        "before-head": WireScript(head_pause=1000),
        "mid-stream": openai_stream(itertools.repeat("x"), pause=0.002),
        "silent": openai_stream(["x"], ends=False, ending="stall"),
    }
    async with ScriptedServer(scripts[phase]) as server, client_of(server) as client:
        await client.post("/", json={})
        if phase != "before-head":
            await client.read_head()
            await client.read_chunk()
        await trio.sleep(0.02)
        left_at = trio.current_time()
        await (client.fin() if leave == "fin" else client.rst())
        [exchange] = server.exchanges
        await exchange.over.wait()
        assert exchange.released_at is not None
        assert exchange.released_at - left_at < 0.5
        assert not exchange.is_complete


@in_time
async def test_a_half_closed_client_counts_as_gone() -> None:
    async with ScriptedServer(openai_stream(["x"], ends=False, ending="stall")) as server, client_of(server) as client:
        await client.post("/", json={})
        await client.read_head()
        await client.half_close()
        await server.exchanges[0].over.wait()
        with pytest.raises(BodyCut):
            await client.read_body()


@pytest.mark.parametrize("framing", ["chunked", "length"])
@in_time
async def test_a_cut_by_fin_leaves_the_body_short(framing: Any) -> None:
    with pytest.raises(BodyCut):
        await fetch(WireScript(steps=lambda: iter(FIVE), ending="cut", framing=framing))


@in_time
async def test_a_cut_between_two_chunks_lacks_the_last_one() -> None:
    with pytest.raises(BodyCut, match="b'' left over"):
        await fetch(WireScript(steps=lambda: iter(FIVE), ending="cut", cut_inside=False))


@in_time
async def test_a_cut_by_rst_is_a_reset() -> None:
    with pytest.raises(trio.BrokenResourceError):
        await fetch(WireScript(steps=lambda: iter(FIVE), ending="cut", cut="rst"))


@in_time
async def test_refusing_after_the_request_is_a_reset_and_the_exchange_is_over() -> None:
    async with ScriptedServer(WireScript(refuse=True)) as server, client_of(server) as client:
        await client.post("/", json={})
        with pytest.raises(trio.BrokenResourceError):
            await client.read_head()
        await server.exchanges[0].over.wait()
        assert server.exchanges[0].released_at is None


@in_time
async def test_a_server_that_refuses_connections_takes_them_again_on_the_same_port() -> None:
    async with ScriptedServer(openai_stream([])) as server:
        port = server.port
        await server.refuse_connections()
        with pytest.raises(ConnectionRefusedError):
            async with client_of(server):
                pytest.fail("connected")
        await server.accept_connections()
        assert server.port == port
        async with client_of(server):
            pass


@pytest.mark.parametrize("framing", ["chunked", "length", "until-close"])
@in_time
async def test_each_framing_carries_the_same_body(framing: Any) -> None:
    _, body = await fetch(WireScript(steps=lambda: iter(FIVE), framing=framing))
    assert body == b"1234567890"


@in_time
async def test_a_body_can_drip() -> None:
    head, body = await fetch(WireScript(steps=lambda: iter(FIVE), drip=0.001, framing="length"))
    assert body == b"1234567890"
    assert head.header("content-length") == "10"


@in_time
async def test_head_end_and_what_follows_can_be_any_bytes() -> None:
    script = WireScript(instead_of_head=b"SSH-2.0-hello\r\n", steps=lambda: iter(FIVE))
    async with ScriptedServer(script) as server, client_of(server) as client:
        await client.post("/", json={})
        assert await client.read_all() == b"SSH-2.0-hello\r\n1234567890"
    script = WireScript(steps=lambda: iter(FIVE), instead_of_end=b"XYZ\r\n")
    async with ScriptedServer(script) as server, client_of(server) as client:
        await client.post("/", json={})
        assert (await client.read_all()).endswith(b"5\r\n67890\r\nXYZ\r\n")
    script = WireScript(steps=lambda: iter(FIVE), after_end=b"HTTP/1.1 200 OK\r\n")
    async with ScriptedServer(script) as server, client_of(server) as client:
        await client.post("/", json={})
        await client.read_head()
        await client.read_body()
        await client.half_close()
        assert await client.read_all() == b"HTTP/1.1 200 OK\r\n"


@in_time
async def test_status_and_headers_are_those_of_the_script() -> None:
    head, body = await fetch(openai_error(429, "slow down", headers=[("retry-after", "7")]))
    assert head.status == 429
    assert head.header("Retry-After") == "7"
    assert b"slow down" in body
    head, _ = await fetch(WireScript(status=302, headers=(("location", "http://elsewhere.invalid/"),)))
    assert head.status == 302
    assert head.header("location") == "http://elsewhere.invalid/"


@in_time
async def test_a_request_that_is_not_http_ends_the_block_loudly() -> None:
    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        async with ScriptedServer(openai_stream([])) as server, client_of(server) as client:
            await client.send(b"GET / HTTP/0.9\r\n\r\n")
            await trio.sleep_forever()


@in_time
async def test_a_client_that_does_not_read_holds_the_server_up() -> None:
    big = WireScript(steps=lambda: (Step(0, b"x" * 4096) for _ in range(20_000)))
    async with ScriptedServer(big) as server, client_of(server, receive_buffer=4096) as client:
        await client.post("/", json={})
        await client.stop_reading(0.3)
        sent = server.exchanges[0].bytes_sent
        assert 0 < sent < 16 * 2**20
        await client.stop_reading(0.1)
        assert server.exchanges[0].bytes_sent == sent


@in_time
async def test_a_client_that_leaves_with_its_request_is_seen_to_leave() -> None:
    async with ScriptedServer(openai_stream(["late"], pause=1000)) as server:
        for _ in range(50):  # it is chance which of the two tasks of a connection comes first
            async with client_of(server) as client:
                await client.post("/", json={})
                await client.fin()
        while server.connections < 50 or server.open_connections:
            await trio.sleep(0.01)
        assert [exchange for exchange in server.exchanges if exchange.released_at is None] == []


@in_time
async def test_five_hundred_streams_run_side_by_side() -> None:
    async def read_one(server: ScriptedServer) -> None:
        async with client_of(server) as client:
            await client.post("/", json={})
            await client.read_head()
            assert len(await client.read_body()) == 23

    async with no_leaks(), ScriptedServer(openai_stream(["x"] * 20, pause=0.05)) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(read_one, server)
        assert sum(exchange.is_complete for exchange in server.exchanges) == 500
