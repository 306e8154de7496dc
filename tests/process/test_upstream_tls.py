"""TLS: the name is proved before a byte of the request leaves, and an answer in many records is still one item."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
import trustme
from support.raw_server import CHUNKED, END, Peer, chunk, open_fds, raw_server, whole
from trio.testing import wait_all_tasks_blocked

from trio_ai_proxy.upstream.connection import tls_context
from trio_ai_proxy.upstream.transport import CLOSE, READ, TrioTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = b"sk-planted-marker"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def transport(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[TrioTransport]:
    before = open_fds()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    transport = TrioTransport(tls_context(str(tmp_path / "ca.pem")))
    with trio.fail_after(20):
        yield transport
    await transport.aclose()
    assert transport.open_connections == 0
    assert open_fds() <= before


def server_context(authority: trustme.CA, *names: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if version is not None:
        context.maximum_version = version
    return context


def ask(origin: str, connect: float = 5.0) -> httpx.Request:
    return httpx.Request(
        "POST", origin, headers=[(b"authorization", KEY)], content=b"{}", extensions={"timeout": {"connect": connect}}
    )


async def fetch(transport: TrioTransport, origin: str) -> bytes:
    response = await transport.handle_async_request(ask(origin))
    body = b""
    try:
        while data := await response.extensions[READ]():
            body += data
    finally:
        response.extensions[CLOSE]()
    return body


async def say_number(peer: Peer) -> None:
    while await peer.request():
        await peer.send(whole(b"%d" % peer.number))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_connection_serves_again(
    transport: TrioTransport, authority: trustme.CA, version: ssl.TLSVersion, name: str
) -> None:
    async with raw_server(say_number, tls=server_context(authority, name, version=version), name=name) as server:
        assert [await fetch(transport, server.origin) for _ in range(4)] == [b"1"] * 4
        assert (transport.open_connections, transport.idle_connections) == (1, 1)
        assert KEY in server.requests[0]


async def test_a_wrong_name_is_refused_and_the_key_is_never_sent(
    transport: TrioTransport, authority: trustme.CA
) -> None:
    async with raw_server(say_number, tls=server_context(authority, "other.example"), name="localhost") as server:
        with pytest.raises(httpx.ConnectError, match="certificate refused"):
            await fetch(transport, server.origin)
        await _no_request(server.requests)


async def test_an_unknown_authority_is_refused_and_the_key_is_never_sent(transport: TrioTransport) -> None:
    async with raw_server(say_number, tls=server_context(trustme.CA(), "localhost"), name="localhost") as server:
        with pytest.raises(httpx.ConnectError, match="certificate refused"):
            await fetch(transport, server.origin)
        await _no_request(server.requests)


async def _no_request(requests: list[bytes]) -> None:
    await wait_all_tasks_blocked(0.01)
    assert requests == []


async def test_plain_http_on_a_tls_port_is_a_connect_error(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await peer.until_left()
        assert KEY not in b"".join(peer.requests)

    async with raw_server(handler) as server:
        with pytest.raises(httpx.ConnectError, match="TLS failed"):
            await fetch(transport, f"https://127.0.0.1:{server.port}")


async def test_a_peer_that_leaves_in_the_handshake_is_a_connect_error(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await trio.lowlevel.checkpoint()
        if peer.number == 2:
            peer.reset()

    async with raw_server(handler) as server:
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                await fetch(transport, f"https://127.0.0.1:{server.port}")


async def test_the_connect_deadline_covers_the_handshake(transport: TrioTransport) -> None:
    async def say_nothing(peer: Peer) -> None:
        await peer.until_left()

    async with raw_server(say_nothing) as server:
        with pytest.raises(httpx.ConnectTimeout):
            await transport.handle_async_request(ask(f"https://127.0.0.1:{server.port}", connect=0.2))
        await server.peers[0].left.wait()


async def test_records_that_came_together_are_one_item(transport: TrioTransport, authority: trustme.CA) -> None:
    ready = trio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await ready.wait()
        for number in range(30):
            await peer.send(chunk(b"data: %d\n\n" % number))
        await peer.send(END)

    async with raw_server(handler, tls=server_context(authority, "localhost"), name="localhost") as server:
        response = await transport.handle_async_request(ask(server.origin))
        ready.set()
        await trio.sleep(0.1)
        items = []
        while item := await response.extensions[READ]():
            items.append(item)
        assert b"".join(items) == b"".join(b"data: %d\n\n" % number for number in range(30))
        assert len(items) == 1


async def test_records_behind_an_answer_never_become_the_next_one(
    transport: TrioTransport, authority: trustme.CA
) -> None:
    async def handler(peer: Peer) -> None:
        while await peer.request():
            await peer.send(whole(b"%d" % peer.number))
            await peer.send(whole(b"evil"))

    async with raw_server(handler, tls=server_context(authority, "localhost"), name="localhost") as server:
        for number in (1, 2, 3):
            response = await transport.handle_async_request(ask(server.origin))
            await trio.sleep(0.02)
            assert await response.extensions[READ]() == b"%d" % number
            response.extensions[CLOSE]()


@pytest.mark.parametrize("announced", [False, True])
async def test_a_stream_that_is_cut_is_a_protocol_error(
    transport: TrioTransport, authority: trustme.CA, announced: bool
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"a") + b"5\r\nab")
        if announced:
            await peer.say_goodbye()

    async with raw_server(handler, tls=server_context(authority, "localhost"), name="localhost") as server:
        response = await transport.handle_async_request(ask(server.origin))
        assert await response.extensions[READ]() == b"aab"
        with pytest.raises(httpx.RemoteProtocolError):
            await response.extensions[READ]()


async def test_a_large_exchange_passes(transport: TrioTransport, authority: trustme.CA) -> None:
    large = bytes(range(256)) * 16384

    async def handler(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(whole(request.partition(b"\r\n\r\n")[2]))

    async with raw_server(handler, tls=server_context(authority, "localhost"), name="localhost") as server:
        response = await transport.handle_async_request(httpx.Request("POST", server.origin, content=large))
        body = b""
        while data := await response.extensions[READ]():
            body += data
        assert body == large
