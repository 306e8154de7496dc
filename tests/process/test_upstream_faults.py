"""What a provider can do wrong on the wire, through real loopback sockets: each fault is one of httpx's errors, none
looks like a clean end, and no socket is left behind.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
import trio.lowlevel
from support.raw_server import CHUNKED, END, BlackHole, Peer, chunk, open_fds, raw_server, whole

from trio_ai_proxy.upstream.transport import CLOSE, READ, TrioTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT = b"data: hello\n\n"
EVENT_STREAM = [b"content-type: text/event-stream"]


@pytest.fixture
async def transport() -> AsyncIterator[TrioTransport]:
    before = open_fds()
    transport = TrioTransport()
    with trio.fail_after(20):
        yield transport
    await transport.aclose()
    assert transport.open_connections == 0
    assert open_fds() <= before


def ask(origin: str, body: bytes = b"{}", connect: float = 5.0) -> httpx.Request:
    return httpx.Request("POST", origin + "/v1/x", content=body, extensions={"timeout": {"connect": connect}})


async def read_body(transport: TrioTransport, request: httpx.Request) -> tuple[bytes, Exception | None]:
    """The body as far as it came, and what ended it (None: a clean end)."""
    body = b""
    try:
        response = await transport.handle_async_request(request)
    except httpx.HTTPError as error:
        return body, error
    try:
        while data := await response.extensions[READ]():
            body += data
    except httpx.HTTPError as error:
        return body, error
    finally:
        response.extensions[CLOSE]()
    return body, None


async def play(transport: TrioTransport, *answer: bytes, reset: bool = False) -> tuple[bytes, Exception | None]:
    """Ask a server that sends these pieces and closes."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        for piece in answer:
            await peer.send(piece)
            await trio.sleep(0.005)
        if reset:
            peer.reset()

    async with raw_server(handler) as server:
        return await read_body(transport, ask(server.origin))


async def test_a_refused_connection_is_a_connect_error(transport: TrioTransport) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(httpx.ConnectError, match="connection refused"):
            await transport.handle_async_request(ask(f"http://127.0.0.1:{unused.getsockname()[1]}"))


async def test_a_connection_that_nobody_answers_ends_at_the_connect_deadline(transport: TrioTransport) -> None:
    hole = BlackHole()
    try:
        began = trio.current_time()
        with pytest.raises(httpx.ConnectTimeout, match=r"0\.2 s"):
            await transport.handle_async_request(ask(f"http://127.0.0.1:{hole.port}", connect=0.2))
        assert trio.current_time() - began < 2
    finally:
        hole.close()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http:///x"])
async def test_an_address_that_is_not_http_is_refused(transport: TrioTransport, url: str) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await transport.handle_async_request(httpx.Request("GET", url))


async def test_whole_answers_end_cleanly(transport: TrioTransport) -> None:
    for answer in (
        [CHUNKED, chunk(TEXT), chunk(TEXT), END],
        [whole(TEXT + TEXT)],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n", whole(TEXT + TEXT)],
        [b"HTTP/1.1 200 OK\r\n\r\n", TEXT, TEXT],
        [b"HTTP/1.0 200 OK\r\n\r\n" + TEXT + TEXT],
    ):
        assert await play(transport, *answer) == (TEXT + TEXT, None)


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        ([CHUNKED, chunk(TEXT), b"d\r\nhal"], TEXT + b"hal"),
        ([CHUNKED, chunk(TEXT)], TEXT),
        ([CHUNKED, chunk(TEXT), b"0\r\n"], TEXT),
        ([CHUNKED + chunk(TEXT) + b"zz\r\nabc\r\n"], TEXT),
        ([CHUNKED, chunk(TEXT), b"-5\r\n"], TEXT),
        ([CHUNKED, chunk(TEXT), b"ffffffffffffffffffff\r\n"], TEXT),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + TEXT], TEXT),
    ],
)
async def test_a_body_that_breaks_off_or_is_wrong_gives_its_good_bytes_and_then_an_error(
    transport: TrioTransport, answer: list[bytes], good: bytes
) -> None:
    body, error = await play(transport, *answer)
    assert body == good
    assert isinstance(error, httpx.RemoteProtocolError)


async def test_a_reset_in_the_body_is_a_read_error(transport: TrioTransport) -> None:
    body, error = await play(transport, CHUNKED, chunk(TEXT), reset=True)
    assert body == TEXT
    assert isinstance(error, httpx.ReadError)
    assert "reset" in str(error)


async def test_a_reset_before_the_head_is_a_read_error(transport: TrioTransport) -> None:
    _, error = await play(transport, reset=True)
    assert isinstance(error, httpx.ReadError)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [b"HTTP/1.1 200 OK\r\ncontent-"],
        [b"SSH-2.0-OpenSSH_9.2p1\r\n"],
        [b"\x15\x03\x01\x00\x02\x02\x46"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"],
        [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc"],
        [b"HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n", *[b"x: " + b"y" * 9000 + b"\r\n"] * 12],
        [b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 300 + b"\r\n"],
    ],
)
async def test_a_wrong_head_is_a_protocol_error(transport: TrioTransport, answer: list[bytes]) -> None:
    body, error = await play(transport, *answer)
    assert body == b""
    assert isinstance(error, httpx.RemoteProtocolError)


async def test_every_split_of_a_chunked_response_gives_the_same_bytes(transport: TrioTransport) -> None:
    events = [b"data: %d %s\n\n" % (n, b"x" * n) for n in range(5)]
    response = CHUNKED + b"".join(map(chunk, events)) + END

    async def handler(peer: Peer) -> None:
        while request := await peer.request():
            cut = int(request.rpartition(b"\r\n\r\n")[2])
            await peer.send(response[:cut])
            await trio.lowlevel.checkpoint()
            await peer.send(response[cut:])

    async with raw_server(handler) as server:
        for cut in range(1, len(response)):
            assert await read_body(transport, ask(server.origin, b"%d" % cut)) == (b"".join(events), None)
        assert len(server.peers) == 1


async def test_a_dripping_answer_arrives_as_it_drips(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
        for byte in b"abc":
            await trio.sleep(0.05)
            await peer.send(bytes([byte]))

    async with raw_server(handler) as server:
        response = await transport.handle_async_request(ask(server.origin))
        read = response.extensions[READ]
        assert [await read() for _ in range(4)] == [b"a", b"b", b"c", b""]


async def test_chunks_that_came_together_are_one_item(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(TEXT) * 50 + END)

    async with raw_server(handler) as server:
        response = await transport.handle_async_request(ask(server.origin))
        assert await response.extensions[READ]() == TEXT * 50
        assert await response.extensions[READ]() == b""


async def test_a_large_request_and_a_large_answer_pass(transport: TrioTransport) -> None:
    large = bytes(range(256)) * 32768

    async def handler(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(whole(request.partition(b"\r\n\r\n")[2]))

    async with raw_server(handler) as server:
        assert await read_body(transport, ask(server.origin, large)) == (large, None)


async def test_an_answer_to_a_body_that_was_not_read_is_heard(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await peer.send(whole(b"too large", b"connection: close", status=b"413 Content Too Large"))
        await peer.until_left()

    async with raw_server(handler) as server:
        response = await transport.handle_async_request(ask(server.origin, b"x" * 100))
        assert response.status_code == 413
        await response.aclose()


async def test_httpx_itself_works_on_top(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        while await peer.request():
            await peer.send(CHUNKED + chunk(b'{"a":') + chunk(b"1}") + END)

    async with raw_server(handler) as server, httpx.AsyncClient(transport=transport, trust_env=False) as client:
        assert (await client.post(server.origin, json={})).json() == {"a": 1}
        async with client.stream("GET", server.origin) as response:
            assert b"".join([part async for part in response.aiter_raw()]) == b'{"a":1}'
        assert len(server.peers) == 1


async def test_ipv6_addresses_are_reached(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(TEXT))

    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with raw_server(handler, host="::1") as server:
        assert await read_body(transport, ask(server.origin)) == (TEXT, None)


async def test_a_name_is_resolved_and_its_addresses_are_tried(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(TEXT))

    async with raw_server(handler, name="localhost") as server:
        assert await read_body(transport, ask(server.origin)) == (TEXT, None)
