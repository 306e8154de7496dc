"""One client, three ways to the wire: our transport, the stock one and its HTTP/2. What the caller sees is the same."""

from __future__ import annotations

import gc
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from support.raw_server import CHUNKED, END, BlackHole, Peer, chunk, open_fds, raw_server, whole

from trio_ai_proxy.errors import (
    ConfigError,
    TruncatedStream,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from trio_ai_proxy.providers.base import UpstreamRequest
from trio_ai_proxy.settings import ProviderSettings
from trio_ai_proxy.upstream.client import UpstreamClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "sk-planted-marker"


@pytest.fixture(params=["own", "httpx"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[UpstreamClient]:
    before = open_fds()
    async with UpstreamClient(ProviderSettings("acme", "openai", transport=request.param)) as client:
        with trio.fail_after(20):
            yield client
    assert client.open_connections in (0, None)
    assert open_fds() <= before


def ask(url: str) -> UpstreamRequest:
    headers = ((b"authorization", KEY.encode()), (b"Accept-Encoding", b"gzip"))
    return UpstreamRequest("POST", f"{url}/v1/chat?key={KEY}", headers, b'{"a":1}', stream=True)


async def stream_two(peer: Peer) -> None:
    while await peer.request():
        await peer.send(CHUNKED + chunk(b"one"))
        await trio.sleep(0.01)
        await peer.send(chunk(b"two") + END)


async def test_a_stream_is_read_to_its_end_and_its_connection_serves_again(client: UpstreamClient) -> None:
    async with raw_server(stream_two) as server:
        for _ in range(3):
            async with await client.open(ask(server.origin), connect=5) as response:
                assert response.status == 200
                assert response.headers["content-type"] == "text/event-stream"
                assert [await response.read() for _ in range(3)] == [b"one", b"two", b""]
        assert len(server.peers) == 1
        head = server.requests[0].lower()
        assert head.count(b"accept-encoding: identity\r\n") == head.count(b"accept-encoding") == 1
        assert head.count(b"user-agent: trio-ai-proxy/") == 1
        assert head.endswith(b'\r\n\r\n{"a":1}')


async def test_read_all_gives_the_body_or_refuses_it(client: UpstreamClient) -> None:
    async def handler(peer: Peer) -> None:
        while await peer.request():
            await peer.send(whole(b"x" * 1000))

    async with raw_server(handler) as server:
        async with await client.open(ask(server.origin), connect=5) as response:
            assert await response.read_all(1000) == b"x" * 1000
        async with await client.open(ask(server.origin), connect=5) as response:
            with pytest.raises(UpstreamProtocolError, match="999 bytes"):
                await response.read_all(999)


async def test_closing_early_releases_the_upstream_in_milliseconds(client: UpstreamClient) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"one") + chunk(b"two"))
        await peer.until_left()

    async with raw_server(handler) as server:
        response = await client.open(ask(server.origin), connect=5)
        assert (await response.read()).startswith(b"one")
        closed_at = trio.current_time()
        with trio.CancelScope() as scope:
            scope.cancel()
            await response.aclose()
        await server.peers[0].left.wait()
        assert trio.current_time() - closed_at < 0.5
        await response.aclose()
        del response
        gc.collect()  # a generator that was left suspended would warn now
        await trio.lowlevel.checkpoint()


async def test_a_cancelled_read_is_closed_like_any_other(client: UpstreamClient) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"one"))
        await peer.until_left()

    async with raw_server(handler) as server:
        with trio.move_on_after(0.1) as scope:
            async with await client.open(ask(server.origin), connect=5) as response:
                while True:
                    await response.read()
        assert scope.cancelled_caught
        await server.peers[0].left.wait()
        del response
        gc.collect()
        await trio.lowlevel.checkpoint()


async def test_what_goes_wrong_is_one_of_our_errors_and_names_no_credential(client: UpstreamClient) -> None:
    errors: list[Exception] = []

    async def attempt(url: str, connect: float = 5.0) -> Exception:
        try:
            async with await client.open(ask(url), connect=connect) as response:
                await response.read_all(1000)
        except UpstreamError as error:
            errors.append(error)
            return error
        raise AssertionError("this must not look like a clean end")

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = await attempt(f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert isinstance(error, UpstreamRefused)
        assert error.message == "Provider 'acme' cannot be reached: connection refused."
    hole = BlackHole()
    error = await attempt(f"http://127.0.0.1:{hole.port}", connect=0.2)
    hole.close()
    assert isinstance(error, UpstreamTimeout)
    assert (error.code, error.seconds) == ("timeout_connect", 0.2)
    assert error.message == "Provider 'acme' could not be connected to within 0.2 s."

    async def misbehave(peer: Peer) -> None:
        await peer.request()
        await peer.send(answers[peer.number - 1])
        if peer.number == 1:
            await trio.sleep(0.05)
            peer.reset()

    expected = {
        CHUNKED + chunk(b"a"): UpstreamRefused,
        CHUNKED + chunk(b"a") + b"5\r\nab": TruncatedStream,
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab": TruncatedStream,
        CHUNKED + b"zz\r\n": UpstreamProtocolError,
        b"SSH-2.0-OpenSSH\r\n": UpstreamProtocolError,
    }
    answers = list(expected)
    async with raw_server(misbehave) as server:
        for kind in expected.values():
            assert type(await attempt(server.origin)) is kind
    for error in errors:
        assert error.__cause__ is not None
        assert KEY not in str(error)
        assert "/v1/chat" not in str(error)


async def test_http2_is_spoken_through_the_stock_transport(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    context.set_alpn_protocols(["h2"])
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    settings = ProviderSettings("acme", "openai", transport="httpx", http2=True, ca_file=str(tmp_path / "ca.pem"))
    preface: list[bytes] = []

    async def handler(peer: Peer) -> None:
        preface.append(await peer.request())
        await peer.finish()

    async with raw_server(handler, tls=context, name="localhost") as server, UpstreamClient(settings) as client:
        with pytest.raises(UpstreamError):  # nobody here speaks it back; that it was spoken is the point
            await client.open(ask(server.origin), connect=5)
    assert preface[0].startswith(b"PRI * HTTP/2.0")


async def test_a_forward_proxy_is_used_through_the_stock_transport() -> None:
    async def forward(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(b"by proxy"))

    async with raw_server(forward) as proxy:
        settings = ProviderSettings("acme", "openai", transport="httpx", proxy=proxy.origin)
        async with (
            UpstreamClient(settings) as client,
            await client.open(ask("http://never.invalid"), connect=5) as response,
        ):
            assert await response.read_all(100) == b"by proxy"
        assert proxy.requests[0].startswith(b"POST http://never.invalid/")


@pytest.mark.parametrize("extra", [{"http2": True}, {"proxy": "http://127.0.0.1:1"}])
def test_what_only_the_stock_transport_can_do_is_refused_with_ours(extra: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"\[providers\.acme\].*transport"):
        UpstreamClient(ProviderSettings("acme", "openai", **extra))  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_used_stops_the_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"\[providers\.acme\] ca_file"):
        UpstreamClient(ProviderSettings("acme", "openai", ca_file=str(file)))
