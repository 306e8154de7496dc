"""The short path to clients that are slow, leave, or cannot be served that way."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from support.raw_server import CHUNKED, END, Peer, chunk, raw_server
from support.short_path import DONE, FINISH, ROLE, USAGE, ask, frame, frames, playing, read_some, serving
from trio.testing import wait_all_tasks_blocked

from trio_ai_proxy.relay import attempt
from trio_ai_proxy.relay.client import Client
from trio_ai_proxy.serving.connection import GuardedServer
from trio_ai_proxy.serving.listener import configure
from trio_ai_proxy.serving.names import install
from trio_ai_proxy.settings import Timeouts
from trio_ai_proxy.testing import RawClient

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    import trustme

    from trio_ai_proxy.gateway import Gateway


async def test_a_slow_client_gets_every_byte_and_the_provider_waits_for_it(
    tmp_path: Path, passed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = 0
    flush = Client.flush

    async def counted(client: Client) -> None:
        nonlocal flushed
        flushed += 1
        await flush(client)

    monkeypatch.setattr(Client, "flush", counted)
    few, many = (
        [ROLE, *(frame(" word") for _ in range(10))],
        [frame("x" * 3000 + str(number)) for number in range(4000)],
    )
    sent = 0

    async def handler(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(CHUNKED)
        for one in few:
            await peer.send(chunk(one))
            await trio.sleep(0.003)
        for one in many:
            await peer.send(chunk(one))
            sent += len(one)
        await peer.send(chunk(FINISH) + chunk(USAGE) + chunk(DONE) + END)
        await peer.until_left()

    async with (
        raw_server(handler) as server,
        serving(server.origin, tmp_path) as served,
        RawClient("127.0.0.1", served.port, receive_buffer=65536) as client,
    ):
        await ask(client)
        await client.read_head()
        body = [(await read_some(client)).data]
        await trio.sleep(0.5)
        before = sent
        await trio.sleep(0.3)
        assert sent == before < 0.7 * sum(map(len, many))  # what the kernel's buffers hold, and no more
        while (piece := await client.read_chunk()) is not None:
            body.append(piece.data)
            if len(body) % 50 == 0:
                await trio.sleep(0.002)
    assert b"".join(body) == b"".join([*few, *many, FINISH, USAGE, DONE])
    assert len(passed) >= 5
    assert flushed >= 1
    assert [record.outcome for record in served.records] == ["completed"]


async def test_a_client_that_stops_reading_is_given_up_after_the_stall_time(
    tmp_path: Path, passed: list[bytes]
) -> None:
    left: list[float] = []

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await peer.until_left()
                left.append(trio.current_time())
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            await peer.send(chunk(ROLE))
            with suppress(trio.BrokenResourceError):
                while True:
                    await peer.send(chunk(frame("x" * 3000)))
                    await trio.sleep(0.0005)

    async with (
        raw_server(handler) as server,
        serving(server.origin, tmp_path, timeouts=Timeouts(stall=0.6, idle=30)) as served,
        RawClient("127.0.0.1", served.port, receive_buffer=65536) as client,
    ):
        await ask(client)
        await client.read_head()
        await served.gateway.live.empty.wait()
        await wait_all_tasks_blocked(0.01)
    assert len(passed) >= 5
    assert left
    [record] = served.records
    assert (record.outcome, record.detail) == ("client_gone", "the client stopped reading")


@pytest.mark.parametrize("manner", ["fin", "rst"])
@pytest.mark.parametrize("goes_on", [True, False], ids=["while tokens come", "in silence"])
async def test_when_the_client_leaves_the_provider_is_let_go_at_once(
    manner: str, goes_on: bool, tmp_path: Path, passed: list[bytes]
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(ROLE))
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await peer.until_left()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            with suppress(trio.BrokenResourceError):
                for number in range(10_000):
                    if goes_on or number < 10:
                        await peer.send(chunk(frame(" word")))
                    await trio.sleep(0.005)

    async with raw_server(handler) as server, serving(server.origin, tmp_path) as served:
        async with RawClient("127.0.0.1", served.port) as client:
            await ask(client)
            await client.read_head()
            for _ in range(8):
                await read_some(client)
            while not goes_on and served.gateway._readiness.watched == 0:  # it has no event for it
                await trio.sleep(0.01)
            await (client.fin() if manner == "fin" else client.rst())
            left_at = trio.current_time()
        await served.gateway.live.empty.wait()
        [peer] = server.peers
        await peer.left.wait()
    assert peer.left_at is not None
    assert peer.left_at - left_at < 1
    assert len(passed) >= 3
    [record] = served.records
    assert (record.outcome, record.phase, record.usage_source) == ("client_gone", "streaming", "estimated")
    assert record.upstream_released_ms is not None
    assert record.upstream_released_ms < 500


async def test_reading_on_for_the_usage_is_bounded_in_bytes(
    tmp_path: Path, passed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "MAX_ABANDONED_BYTES", 20_000)
    sent = 0

    async def handler(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(CHUNKED + chunk(ROLE))
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await peer.until_left()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            with suppress(trio.BrokenResourceError):
                while True:
                    await peer.send(chunk(frame(" word")))
                    sent += len(frame(" word"))
                    await trio.sleep(0.001)

    async with (
        raw_server(handler) as server,
        serving(server.origin, tmp_path, on_disconnect="drain", timeouts=Timeouts(abandoned=30)) as served,
    ):
        async with RawClient("127.0.0.1", served.port) as client:
            await ask(client)
            await client.read_head()
            for _ in range(10):
                await read_some(client)
            before = sent
        with trio.fail_after(10):
            await served.gateway.live.empty.wait()
    assert len(passed) >= 3
    assert sent - before < 200_000
    assert [record.outcome for record in served.records] == ["client_gone"]


async def test_usage_that_comes_after_the_client_has_left_is_in_the_books(tmp_path: Path, passed: list[bytes]) -> None:
    said = [ROLE, *(frame(" word") for _ in range(60)), FINISH, USAGE, DONE]
    async with (
        raw_server(playing(map(chunk, said), 0.005)) as server,
        serving(server.origin, tmp_path, on_disconnect="drain") as served,
    ):
        async with RawClient("127.0.0.1", served.port) as client:
            await ask(client)
            await client.read_head()
            for _ in range(10):
                await read_some(client)
        await served.gateway.live.empty.wait()
    assert 3 <= len(passed) < 50
    [record] = served.records
    assert (record.outcome, record.usage_source, record.completion_tokens) == ("client_gone", "provider", 40)


async def test_a_client_of_http_1_0_gets_its_bytes_the_long_way(tmp_path: Path, passed: list[bytes]) -> None:
    said = frames(10)
    async with (
        raw_server(playing(map(chunk, said))) as server,
        serving(server.origin, tmp_path) as served,
    ):
        assert await served.ask(version="1.0") == b"".join(said)
    assert passed == []


async def test_a_client_that_speaks_tls_gets_its_bytes_the_long_way(
    authority: trustme.CA, tmp_path: Path, passed: list[bytes]
) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "gateway.pem"))

    async def serve_tls(  # Hypercorn says that it has started
        app: Gateway,
        listener: socket.socket,
        stop: trio.Event,
        *,
        graceful: float,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """`serve_app`, as `hypercorn --certfile` does it."""
        install(GuardedServer)
        config = Config()
        config.errorlog = None
        config.certfile = config.keyfile = str(tmp_path / "gateway.pem")
        configure(config, app.guard, graceful=graceful)
        sockets = Sockets([listener], [], [])
        await worker_serve(
            ASGIWrapper(app), config, sockets=sockets, shutdown_trigger=stop.wait, task_status=task_status
        )

    said = frames(20)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with (
        raw_server(playing(map(chunk, said))) as server,
        serving(server.origin, tmp_path, serve=serve_tls) as served,
        RawClient("127.0.0.1", served.port) as client,
    ):
        below: Any = client._stream
        stream: Any = trio.SSLStream(below, context, server_hostname="127.0.0.1", https_compatible=True)
        client._stream = stream
        await ask(client)
        await client.read_head()
        assert b"".join(piece.data for piece in await client.read_body()) == b"".join(said)
    assert passed == []


async def test_nothing_goes_past_a_layer_that_somebody_has_put_around_the_gateway(
    tmp_path: Path, passed: list[bytes]
) -> None:
    said = frames(20)
    seen: list[bytes] = []

    class Middleware:
        """One that looks at every piece, as one that compresses would have to."""

        def __init__(self, gateway: Gateway) -> None:
            self._gateway = gateway
            self.guard = gateway.guard

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def look(message: Any) -> None:
                seen.append(message.get("body", b""))
                await send(message)

            await self._gateway(scope, receive, look if scope["type"] == "http" else send)

    async with (
        raw_server(playing(map(chunk, said))) as server,
        serving(server.origin, tmp_path, around=Middleware) as served,
    ):
        assert await served.ask() == b"".join(said) == b"".join(seen)
    assert passed == []
