"""The guarded server alone, over real sockets: an application that does as it is told, and clients that misbehave."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from trio_ai_proxy.serving.guard import Guard
from trio_ai_proxy.serving.listener import open_listener, serve_app

Endpoint = Callable[[Any, Any, Any], Awaitable[None]]


class App:
    """Serves `endpoint`, under `guard`, and says what was reported."""

    def __init__(self, endpoint: Endpoint, **limits: Any) -> None:
        self.endpoint = endpoint
        self.reports: list[tuple[str, Any]] = []
        self.guard = Guard(report=self._report, **limits)
        self.calls = 0

    def _report(self, event: str, **facts: Any) -> None:
        self.reports.append((event, facts.get("error")))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        self.calls += 1
        await self.endpoint(scope, receive, send)


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[Served]:
    listener = open_listener("127.0.0.1:0")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_app, app, listener, stop, graceful=0.5))
        yield Served(app, listener.getsockname()[1])
        stop.set()
        nursery.cancel_scope.deadline = trio.current_time() + 10
    assert not nursery.cancel_scope.cancelled_caught, "the server did not end"


class Served:
    """A port where `app` is served."""

    def __init__(self, app: App, port: int) -> None:
        self.app = app
        self.port = port

    async def connect(self, *, receive_buffer: int | None = None) -> trio.SocketStream:
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", self.port))
        return trio.SocketStream(sock)

    async def exchange(self, request: bytes) -> bytes:
        """Send `request`, and read until the server closes."""
        stream = await self.connect()
        async with stream:
            await stream.send_all(request)
            with trio.fail_after(10):
                return await read_all(stream)


async def read_all(stream: trio.SocketStream) -> bytes:
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def stream_two(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    await send({"type": "http.response.body", "body": b"two", "more_body": False})


class UntilGone:
    """An endpoint that streams nothing and waits for its client to go."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.gone = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.began.set()
        message = await receive()
        assert message["type"] == "http.disconnect"
        self.gone.set()


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
GET_CLOSE = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def test_requests_follow_one_another_on_one_connection() -> None:
    async with serving(App(hello)) as served, await served.connect() as client:
        for _ in range(3):
            await client.send_all(GET)
            received = b""
            while not received.endswith(b"hello"):
                received += await client.receive_some()
            assert received.startswith(b"HTTP/1.1 200")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(App(hello)) as served:
        received = await served.exchange(GET + GET + GET_CLOSE)
        assert received.count(b"HTTP/1.1 200") == 3


async def test_a_stream_is_framed_in_chunks_and_its_head_leaves_with_the_first() -> None:
    async with serving(App(stream_two)) as served:
        received = await served.exchange(GET_CLOSE)
        assert received.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_http_1_0_gets_a_body_without_chunks_that_ends_with_the_connection() -> None:
    async with serving(App(stream_two)) as served:
        received = await served.exchange(b"GET / HTTP/1.0\r\n\r\n")
        assert received.endswith(b"\r\n\r\nonetwo")


async def test_head_gets_no_body() -> None:
    async with serving(App(hello)) as served:
        received = await served.exchange(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"content-length: 5" in received.lower()
        assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("extra", [b"", b"\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"x" * 200_000])
async def test_a_departure_is_seen_whatever_bytes_came_before_it(extra: bytes) -> None:
    endpoint = UntilGone()
    async with serving(App(endpoint)) as served:
        client = await served.connect()
        await client.send_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        with trio.fail_after(10):
            await endpoint.began.wait()
            with trio.move_on_after(1):
                await client.send_all(extra)
            await client.aclose()
            await endpoint.gone.wait()


async def test_a_half_closed_client_counts_as_gone() -> None:
    endpoint = UntilGone()
    async with serving(App(endpoint)) as served, await served.connect() as client:
        await client.send_all(GET)
        await endpoint.began.wait()
        await client.send_eof()
        with trio.fail_after(10):
            await endpoint.gone.wait()


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 400, b"ambiguous_length"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b"http_version_not_supported"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", 400, b"http2_not_supported"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"a" * 100_000 + b"\r\n\r\n", 431, b"headers_too_large"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"a" * 40_000 + b"\r\n\r\n", 431, b"headers_too_large"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400, b"bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, b"bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, b"bad_request"),
    ],
)  # fmt: skip
async def test_what_is_no_plain_http_1_1_request_gets_one_clear_error(
    request_bytes: bytes, status: int, code: bytes
) -> None:
    app = App(hello)
    async with serving(app) as served:
        received = await served.exchange(request_bytes)
        assert received.startswith(b"HTTP/1.1 %d" % status)
        assert b'"code": "%b"' % code in received
        assert received.count(b"HTTP/1.1 %d" % status) == 1
        assert app.calls == 0
        assert b"hello" in await served.exchange(GET_CLOSE)


async def test_h2c_can_be_ignored_as_the_specification_allows() -> None:
    async with serving(App(hello, h2c="ignore")) as served:
        received = await served.exchange(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n\r\n"
        )
        assert b"hello" in received


@pytest.mark.parametrize("piece", [b"x: " + b"y" * 200_000 + b"\r\n", b"a: b\r\n" * 40_000])
async def test_trailers_are_bounded_and_are_no_headers(piece: bytes) -> None:
    seen: list[Any] = []

    async def take(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.append(scope["headers"])
        await hello(scope, receive, send)

    head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    async with serving(App(take)) as served:
        assert b"hello" in await served.exchange(head + b"authorization: x\r\n\r\n")
        assert [name for name, _ in seen[0]] == [b"host", b"connection", b"transfer-encoding"]
        received = await served.exchange(head + piece)
        assert received.startswith(b"HTTP/1.1 431")


async def test_a_body_is_read_though_its_head_asked_to_upgrade() -> None:
    bodies: list[bytes] = []

    async def take(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        bodies.append(body)
        await hello(scope, receive, send)

    async with serving(App(take, h2c="ignore")) as served:
        head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\ncontent-length: 4\r\n\r\n"
        received = await served.exchange(head + b"body" + GET_CLOSE)
        assert received.count(b"hello") == 2
        async with await served.connect() as client:
            for piece in (head[:50], head[50:], b"bo", b"dy"):
                await client.send_all(piece)
                await trio.sleep(0.02)
            with trio.fail_after(10):
                received = await client.receive_some()
            assert received.endswith(b"hello")
        assert bodies == [b"body", b"", b"body"]


async def test_a_websocket_request_is_an_ordinary_request() -> None:
    app = App(hello)
    async with serving(app) as served:
        received = await served.exchange(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b"hello" in received
        assert app.calls == 1


class Panic(BaseException):
    """What a native library's panic looks like from Python."""


@pytest.mark.parametrize("error", [ValueError("x"), Panic("x"), ExceptionGroup("x", [ValueError("y")])])
async def test_what_an_application_raises_ends_its_request_and_no_other(error: BaseException) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/fail":
            raise error
        await hello(scope, receive, send)

    app = App(fail)
    async with serving(app) as served:
        received = await served.exchange(b"GET /fail HTTP/1.1\r\nhost: x\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 500")
        assert b"hello" in await served.exchange(GET_CLOSE)
        assert [event for event, _ in app.reports] == ["application failed"]


async def test_an_answer_that_its_application_leaves_unfinished_is_cut() -> None:
    async def stop_short(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async with serving(App(stop_short)) as served, await served.connect() as client:
        await client.send_all(GET)
        received = b""
        with trio.fail_after(10):
            try:
                received = await read_all(client)
            except trio.BrokenResourceError:
                pass
        assert not received.endswith(b"0\r\n\r\n")


async def test_a_client_that_takes_nothing_is_thrown_out_and_one_that_takes_little_is_not() -> None:
    ended: list[str] = []

    async def pour(scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                ended.append(f"{name} stalled={scope['extensions']['trio_ai_proxy.request'].stalled}")
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})

    async with serving(App(pour, stall=1.0)) as served:
        deaf = await served.connect(receive_buffer=4096)
        slow = await served.connect(receive_buffer=4096)
        await deaf.send_all(b"GET /deaf HTTP/1.1\r\nhost: x\r\n\r\n")
        await slow.send_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        with trio.fail_after(30):
            for _ in range(30):
                await slow.receive_some(2048)
                await trio.sleep(0.1)
        assert ended == ["/deaf stalled=True"]
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            await read_all(deaf)
        await deaf.aclose()
        await slow.aclose()
        with trio.fail_after(10):
            while len(ended) < 2:
                await trio.sleep(0.01)
        assert ended[1] == "/slow stalled=False"


async def test_a_client_that_takes_nothing_is_thrown_out_after_the_stall_time_and_not_after_twice_that() -> None:
    lasted: list[float] = []

    async def pour(scope: Any, receive: Any, send: Any) -> None:
        began = trio.current_time()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                lasted.append(trio.current_time() - began)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})

    async with serving(App(pour, stall=2.0)) as served, await served.connect() as client:
        await client.send_all(GET)
        with trio.fail_after(30):
            while not lasted:
                await trio.sleep(0.01)
        assert 2 <= lasted[0] < 3.5


async def test_a_send_to_a_client_that_does_not_read_can_be_cancelled() -> None:
    left: list[float] = []

    async def pour(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with trio.move_on_after(0.3) as scope_:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        assert scope_.cancelled_caught
        left.append(trio.current_time())

    async with serving(App(pour)) as served, await served.connect(receive_buffer=4096) as client:
        began = trio.current_time()
        await client.send_all(GET)
        with trio.fail_after(10):
            while not left:
                await trio.sleep(0.01)
        assert left[0] - began < 5


async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"7")]})
        await send({"type": "http.response.body", "body": b"too big"})

    async with serving(App(refuse)) as served, await served.connect() as client:
        await client.send_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n")
        received = b""

        async def read() -> None:
            nonlocal received
            received = await read_all(client)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for _ in range(20):
                    await client.send_all(b"x" * 100_000)
        assert received.startswith(b"HTTP/1.1 413")
        assert received.endswith(b"too big")
        assert b"connection: close" in received.lower()


async def test_leave_to_send_the_body_is_given_only_when_the_body_is_wanted() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/take":
            while (await receive()).get("more_body"):
                pass
        await hello(scope, receive, send)

    async with serving(App(refuse)) as served:
        head = b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        async with await served.connect() as client:
            await client.send_all(head % b"/refuse")
            with trio.fail_after(10):
                received = await read_all(client)
            assert received.startswith(b"HTTP/1.1 200")
        async with await served.connect() as client:
            await client.send_all(head % b"/take")
            with trio.fail_after(10):
                assert (await client.receive_some()).startswith(b"HTTP/1.1 100")
                await client.send_all(b"{}")
                assert (await read_all(client)).endswith(b"hello")


async def test_a_body_that_nobody_reads_is_bounded_and_a_departure_is_still_seen() -> None:
    began = trio.Event()
    ended = trio.Event()

    async def sleep(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        await trio.sleep(0.5)
        size = 0
        while (message := await receive())["type"] == "http.request":
            size += len(message["body"])
        ended.set()

    async with serving(App(sleep, max_unread_bytes=100_000)) as served:
        client = await served.connect()
        await client.send_all(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await began.wait()
        with trio.move_on_after(1):
            while True:
                await client.send_all(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        with trio.fail_after(10):
            await ended.wait()


async def test_idle_connections_close_when_a_drain_begins_and_busy_ones_after_their_answer() -> None:
    go_on = trio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await hello(scope, receive, send)

    app = App(wait)
    async with serving(app) as served:
        idle = await served.connect()
        busy = await served.connect()
        await busy.send_all(GET)
        while app.calls == 0:
            await trio.sleep(0.01)
        while len(app.guard.connections) < 2:
            await trio.sleep(0.01)
        app.guard.drain()
        with trio.fail_after(10):
            assert await idle.receive_some() == b""
            go_on.set()
            received = await read_all(busy)
        assert b"connection: close" in received.lower()
        assert received.endswith(b"hello")
        await idle.aclose()
        await busy.aclose()


async def test_a_slow_head_is_cut_off_by_the_idle_time() -> None:
    async with serving(App(hello, keep_alive=0.3)) as served, await served.connect() as client:
        began = trio.current_time()
        with trio.fail_after(10):
            try:
                for byte in GET:
                    await client.send_all(bytes([byte]))
                    await trio.sleep(0.1)
            except trio.BrokenResourceError:
                pass
            assert trio.current_time() - began < 2.5
