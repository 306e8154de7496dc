"""Connections that serve again: last in, first out, nothing queues, a dead one is found out before or just after it
is used, and a request is repeated once at most, before any byte of an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
import trio
from support.raw_server import CHUNKED, END, Peer, RawServer, chunk, open_fds, raw_server, whole

from trio_ai_proxy.upstream.connection import Connection
from trio_ai_proxy.upstream.transport import CLOSE, IDLE_SECONDS, READ, TrioTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def transport() -> AsyncIterator[TrioTransport]:
    before = open_fds()
    transport = TrioTransport()
    with trio.fail_after(20):
        yield transport
    await transport.aclose()
    assert transport.open_connections == 0
    assert open_fds() <= before


async def say_number(peer: Peer) -> None:
    """Answer each request with the number of the connection it came on."""
    while await peer.request():
        await peer.send(whole(b"%d" % peer.number))


async def open_response(transport: TrioTransport, server: RawServer) -> httpx.Response:
    return await transport.handle_async_request(httpx.Request("POST", server.origin, content=b"{}"))


async def fetch(transport: TrioTransport, server: RawServer) -> bytes:
    response = await open_response(transport, server)
    body = b""
    while data := await response.extensions[READ]():
        body += data
    return body


async def test_requests_one_after_another_use_one_connection(transport: TrioTransport) -> None:
    async with raw_server(say_number) as server:
        assert [await fetch(transport, server) for _ in range(5)] == [b"1"] * 5
        assert (transport.open_connections, transport.idle_connections) == (1, 1)


async def test_the_connection_that_was_used_last_is_used_next(transport: TrioTransport) -> None:
    async with raw_server(say_number) as server:
        responses = [await open_response(transport, server) for _ in range(3)]
        assert (transport.open_connections, transport.idle_connections) == (3, 0)
        for response in responses:
            await response.aread()
            await response.aclose()
        assert [response.content for response in responses] == [b"1", b"2", b"3"]
        assert transport.idle_connections == 3
        assert [await fetch(transport, server) for _ in range(3)] == [b"3"] * 3


async def test_a_request_looks_at_one_idle_connection_however_many_there_are(
    transport: TrioTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Connection] = []
    is_quiet = Connection.is_quiet

    def counted(connection: Connection) -> bool:
        looked_at.append(connection)
        return is_quiet(connection)

    async with raw_server(say_number) as server, raw_server(say_number) as other:
        responses = [await open_response(transport, server) for _ in range(50)]
        responses += [await open_response(transport, other) for _ in range(50)]
        for response in responses:
            await response.aclose()
        assert transport.idle_connections == 100
        monkeypatch.setattr(Connection, "is_quiet", counted)
        assert await fetch(transport, server) == b"50"
        assert len(looked_at) == 1


async def test_an_answer_that_is_closed_early_closes_its_connection_at_once(transport: TrioTransport) -> None:
    async def stream_for_ever(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"a"))
        await peer.until_left()

    async with raw_server(stream_for_ever) as server:
        for close in ("extension", "httpx"):
            response = await open_response(transport, server)
            assert await response.extensions[READ]() == b"a"
            closed_at = trio.current_time()
            if close == "extension":
                response.extensions[CLOSE]()
            else:
                await response.aclose()
            assert transport.open_connections == 0
            await server.peers[-1].left.wait()
            assert trio.current_time() - closed_at < 1
            response.extensions[CLOSE]()
            with pytest.raises(httpx.StreamClosed):
                await response.extensions[READ]()


async def test_an_answer_whose_end_has_come_is_whole_although_nobody_read_it(transport: TrioTransport) -> None:
    async with raw_server(say_number) as server:
        response = await open_response(transport, server)
        response.extensions[CLOSE]()
        assert await fetch(transport, server) == b"1"


async def test_a_connection_is_not_used_again_when_the_provider_says_close(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(b"%d" % peer.number, b"connection: close"))
        await peer.until_left()

    async with raw_server(handler) as server:
        assert [await fetch(transport, server) for _ in range(2)] == [b"1", b"2"]
        assert transport.open_connections == 0


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"junk"])
@pytest.mark.parametrize("later", [False, True])
async def test_bytes_behind_an_answer_never_become_the_next_one(
    transport: TrioTransport, extra: bytes, later: bool
) -> None:
    sent = trio.Event()

    async def handler(peer: Peer) -> None:
        while await peer.request():
            if later:
                await peer.send(whole(b"%d" % peer.number))
                await trio.sleep(0.02)
                await peer.send(extra)
            else:
                await peer.send(whole(b"%d" % peer.number) + extra)
            sent.set()

    async with raw_server(handler) as server:
        assert await fetch(transport, server) == b"1"
        await sent.wait()
        assert await fetch(transport, server) == b"2"


async def test_a_connection_that_was_closed_while_idle_is_found_before_it_is_used(transport: TrioTransport) -> None:
    closed = trio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(b"%d" % peer.number))
        if peer.number == 1:
            await peer.finish()
            closed.set()
        else:
            await peer.until_left()

    async with raw_server(handler) as server:
        assert await fetch(transport, server) == b"1"
        await closed.wait()
        assert await fetch(transport, server) == b"2"
        assert [len(peer.requests) for peer in server.peers] == [1, 1]


@pytest.mark.parametrize("reset", [False, True])
async def test_a_stale_connection_costs_one_invisible_retry(transport: TrioTransport, reset: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(b"%d" % peer.number))
        await peer.request()
        if reset:
            peer.reset()  # else it ends: the second request came, and nobody will answer it

    async with raw_server(handler) as server:
        assert await fetch(transport, server) == b"1"
        assert await fetch(transport, server) == b"2"
        assert [len(peer.requests) for peer in server.peers] == [2, 1]


async def test_the_retry_is_not_repeated(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        if peer.number <= 2:
            await peer.send(whole(b"ok"))
            await peer.request()

    async with raw_server(handler) as server:
        responses = [await open_response(transport, server) for _ in range(2)]
        for response in responses:
            await response.aclose()
        with pytest.raises(httpx.RemoteProtocolError):  # 2 is stale, 3 is fresh; 1 must not be tried
            await fetch(transport, server)
        assert [len(peer.requests) for peer in server.peers] == [1, 2, 1]


async def test_a_fresh_connection_is_never_retried(transport: TrioTransport) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()

    async with raw_server(handler) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, server)
        assert len(server.peers) == 1


@pytest.mark.parametrize("first_bytes", [b"H", CHUNKED, CHUNKED + chunk(b"a")])
async def test_nothing_is_retried_after_a_byte_of_an_answer(transport: TrioTransport, first_bytes: bytes) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + END)
        await peer.request()
        await peer.send(first_bytes)

    async with raw_server(handler) as server:
        assert await fetch(transport, server) == b""
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, server)
        assert [len(peer.requests) for peer in server.peers] == [2]


async def test_idle_connections_that_are_too_old_are_closed_and_not_used(transport: TrioTransport) -> None:
    pool = transport._pool
    async with raw_server(say_number) as server:
        responses = [await open_response(transport, server) for _ in range(3)]
        links = [response.stream for response in responses]
        connections = [link._connection for link in links]  # type: ignore[union-attr]
        for response in responses:
            await response.aclose()
        origin = connections[0].origin
        connections[0].idle_since -= IDLE_SECONDS + 1
        response = await open_response(transport, server)
        await response.aclose()
        assert transport.idle_connections == 2
        assert connections[0] not in pool.open
        for connection in connections[1:]:
            connection.idle_since -= IDLE_SECONDS + 1
        assert pool.take(origin, trio.current_time()) is None
        assert transport.open_connections == 0


async def test_idle_connections_are_bounded_in_number_and_the_oldest_go_first(
    transport: TrioTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ai_proxy.upstream.transport.MAX_IDLE", 2)
    async with raw_server(say_number) as server:
        responses = [await open_response(transport, server) for _ in range(4)]
        for response in responses:
            await response.aclose()
        assert (transport.open_connections, transport.idle_connections) == (2, 2)
        kept = [await open_response(transport, server) for _ in range(2)]
        for response in kept:
            await response.aread()
            await response.aclose()
        assert [response.content for response in kept] == [b"4", b"3"]


async def test_a_transport_that_is_closed_takes_nothing_new_and_lets_the_running_end(transport: TrioTransport) -> None:
    finish = trio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"a"))
        await finish.wait()
        await peer.send(chunk(b"b") + END)
        await peer.until_left()

    async with raw_server(handler) as server:
        response = await open_response(transport, server)
        assert await response.extensions[READ]() == b"a"
        await transport.aclose()
        with pytest.raises(httpx.ConnectError):
            await open_response(transport, server)
        finish.set()
        assert await response.extensions[READ]() == b"b"
        assert await response.extensions[READ]() == b""
        assert transport.open_connections == 0
