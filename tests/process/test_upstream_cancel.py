"""Cancelling at any phase leaves nothing: no socket, no thread that blocks the next look-up, no connection in the
pool that is neither usable nor counted. The collector is off, so that it cannot tidy up for us.
"""

from __future__ import annotations

import gc
import random
import ssl
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
import trustme
from support.raw_server import CHUNKED, END, BlackHole, Peer, RawServer, chunk, open_fds, raw_server, whole
from trio.testing import wait_all_tasks_blocked

from trio_ai_proxy.upstream.resolver import CachingResolver
from trio_ai_proxy.upstream.transport import CLOSE, READ, TrioTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CANCELS = 20


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def transport(_no_collector: None) -> AsyncIterator[TrioTransport]:
    before = open_fds()
    transport = TrioTransport()
    with trio.fail_after(30):
        yield transport
    await transport.aclose()
    assert transport.open_connections == 0
    assert open_fds() <= before


async def cancel_often(transport: TrioTransport, url: str, body: bytes = b"{}", read: bool = False) -> None:
    """Ask and be cancelled a little later, many times; each time everything is as before."""
    for attempt in range(CANCELS):
        with trio.move_on_after(0.002 + 0.002 * attempt) as scope:
            response = await transport.handle_async_request(httpx.Request("POST", url, content=body))
            try:
                while read:
                    await response.extensions[READ]()
            finally:
                response.extensions[CLOSE]()
        assert scope.cancelled_caught
        assert transport.open_connections == 0


async def everyone_left(server: RawServer) -> None:
    for peer in server.peers:
        await peer.left.wait()


async def test_cancelled_in_the_name_lookup(transport: TrioTransport) -> None:
    release = threading.Event()

    def hang(*question: Any) -> Any:
        release.wait(20)
        raise OSError("no answer")

    trio.socket.set_custom_hostname_resolver(CachingResolver(hang))
    try:
        await cancel_often(transport, "http://hangs.invalid/")
        # Trio's own threads are free although ours all hang.
        with trio.fail_after(5):
            assert await trio.to_thread.run_sync(lambda: 1) == 1
    finally:
        release.set()
        trio.socket.set_custom_hostname_resolver(None)


async def test_cancelled_in_the_tcp_connect(transport: TrioTransport) -> None:
    hole = BlackHole()
    try:
        fds = open_fds()
        await cancel_often(transport, f"http://127.0.0.1:{hole.port}/")
        assert open_fds() == fds
    finally:
        hole.close()


async def test_cancelled_in_the_tls_handshake(transport: TrioTransport) -> None:
    async def say_nothing(peer: Peer) -> None:
        await peer.until_left()

    async with raw_server(say_nothing) as server:
        await cancel_often(transport, f"https://127.0.0.1:{server.port}/")
        await everyone_left(server)
        assert len(server.peers) == CANCELS


async def test_cancelled_while_the_request_goes_out(transport: TrioTransport) -> None:
    async def read_nothing(peer: Peer) -> None:
        await trio.sleep_forever()

    async with raw_server(read_nothing) as server:
        await cancel_often(transport, server.origin, body=b"x" * 50_000_000)


async def test_cancelled_before_the_head(transport: TrioTransport) -> None:
    async def say_nothing(peer: Peer) -> None:
        await peer.until_left()

    async with raw_server(say_nothing) as server:
        await cancel_often(transport, server.origin)
        await everyone_left(server)


async def test_cancelled_in_the_head(transport: TrioTransport) -> None:
    async def say_half(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED[:20])
        await peer.until_left()

    async with raw_server(say_half) as server:
        await cancel_often(transport, server.origin)
        await everyone_left(server)


async def test_cancelled_in_the_body(transport: TrioTransport) -> None:
    async def stream(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        while True:
            await peer.send(chunk(b"data: x\n\n"))
            await trio.sleep(0.001)

    async with raw_server(stream) as server:
        await cancel_often(transport, server.origin, read=True)


async def test_a_read_that_another_task_closes_under_ends_with_an_error(transport: TrioTransport) -> None:
    async def say_nothing_more(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.until_left()

    async with raw_server(say_nothing_more) as server:
        response = await transport.handle_async_request(httpx.Request("GET", server.origin))
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(httpx.ReadError):
                    await response.extensions[READ]()

            nursery.start_soon(read)
            await wait_all_tasks_blocked(0.01)
            response.extensions[CLOSE]()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("tls", [False, True])
async def test_a_storm_of_cancels_leaves_a_transport_that_works(tls: bool) -> None:
    dice = random.Random(7)
    authority = trustme.CA()
    context = None
    client_context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        client_context = ssl.create_default_context()
        authority.configure_trust(client_context)
    before = open_fds()
    transport = TrioTransport(client_context)

    async def answer(peer: Peer) -> None:
        while await peer.request():
            await trio.sleep(dice.random() * 0.01)
            await peer.send(CHUNKED + chunk(b"a"))
            await trio.sleep(dice.random() * 0.01)
            await peer.send(chunk(b"b") + END)

    async with raw_server(answer, tls=context) as server:

        async def ask() -> bytes:
            body = b""
            response = await transport.handle_async_request(
                httpx.Request("POST", server.origin, content=b"{}", extensions={"timeout": {"connect": 10}})
            )
            try:
                while data := await response.extensions[READ]():
                    body += data
            finally:
                response.extensions[CLOSE]()
            return body

        async def ask_and_leave() -> None:
            for _ in range(10):
                with trio.move_on_after(dice.random() * 0.03):
                    assert await ask() == b"ab"

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(30):
                    nursery.start_soon(ask_and_leave)
            assert transport.open_connections == transport.idle_connections
            for _ in range(20):
                assert await ask() == b"ab"
        assert transport.open_connections == transport.idle_connections
        await transport.aclose()
        assert transport.open_connections == 0
    assert open_fds() <= before


async def test_a_request_that_is_cancelled_before_it_starts_opens_nothing(transport: TrioTransport) -> None:
    async def answer(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(b"ok"))

    async with raw_server(answer) as server:
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.handle_async_request(httpx.Request("GET", server.origin))
        assert scope.cancelled_caught
        assert transport.open_connections == 0
