"""HTTP/1.1 below httpx's seam: one request, one connection, and closing it is the cancel.

What the stock transport cannot give, and why this one exists: its pool queues and does not survive cancellation
there, looks at every idle connection for every request, and hands out each HTTP chunk apart. Here nothing queues (a
limiter stands before any transport), a request costs the same with no and with a thousand idle connections, the bytes
of one read are one item, and an answer that is closed early closes its connection at once.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import httpx
import trio
from typing_extensions import override

from trio_ai_proxy.upstream.connection import Connection, Origin, open_connection, tls_context
from trio_ai_proxy.upstream.http1 import ResponseParser, encode_request
from trio_ai_proxy.upstream.resolver import install_resolver

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from trio_ai_proxy.upstream.readiness import Readiness

READ = "trio_ai_proxy.read"
"""Response extension: `async () -> bytes`, the body bytes of one read; b"" at the end. Cheaper than iterating the
stream, and not a generator, so there is nothing to finalise."""

CLOSE = "trio_ai_proxy.close"
"""Response extension: `() -> None`, release the connection now: without waiting, without a checkpoint. Idempotent."""

SENT = "trio_ai_proxy.sent"
"""Request extension: `() -> None`, called when the request has been handed to a connection. What follows is waiting for
the provider; with a transport that does not know it, waiting for a connection seems to go on until the head comes."""

IDLE_SECONDS = 30.0  # providers' front ends keep idle connections for 60 s and more: we let go first
MAX_IDLE = 256
_DEFAULT_PORTS = {"http": 80, "https": 443}


class TrioTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over TCP and TLS, on Trio.

    From a request it honours `extensions["timeout"]["connect"]` (seconds; name look-up, TCP and TLS together). All
    other deadlines are scopes around the call. Failures are httpx's: `ConnectTimeout`, `ConnectError`, `WriteError`,
    `ReadError`, `RemoteProtocolError`, `LocalProtocolError`, `UnsupportedProtocol`. It follows no redirect and
    decodes nothing.

    A response carries the extensions `READ` and `CLOSE` beside the ordinary stream. Who opens a response closes it.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        """`context` is for TLS; by default certificates are checked against the system's authorities."""
        self._context = context if context is not None else tls_context()
        self._context.set_alpn_protocols(["http/1.1"])
        self._pool = ConnectionPool()
        self._opening = 0

    @property
    def open_connections(self) -> int:
        """Connections that exist: being opened, in use and idle."""
        return self._opening + len(self._pool.open)

    @property
    def idle_connections(self) -> int:
        """Connections that wait for the next request."""
        return self._pool.idle_count()

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        seconds = request.extensions.get("timeout", {}).get("connect")
        connect = math.inf if seconds is None else seconds
        sent = request.extensions.get(SENT)
        origin = origin_of(request.url)
        link = await self.ask(origin, encode_request(request), request.method, connect=connect, sent=sent)
        return link.response()

    async def ask(
        self, origin: Origin, message: bytes, method: str, *, connect: float, sent: Callable[[], None] | None = None
    ) -> Link:
        """Send a whole request to `origin` and wait for the head of its response: what `handle_async_request` does,
        without httpx's objects around it. `connect` is in seconds; `sent` is called when the request has been handed to a
        connection. The caller releases the link."""
        connection = self._pool.take(origin, trio.current_time())
        if connection is not None:
            link = Link(self._pool, method, sent)
            try:
                await link.ask(connection, message)
                return link
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # The provider closed it as we wrote. Before any byte of an answer, and on a connection that had been
                # idle, this says nothing about the request: it gets one fresh connection. Never a second.
                if link.has_answered:
                    raise
        connection = await self._connect(origin, connect)
        link = Link(self._pool, method, sent)
        await link.ask(connection, message)
        return link

    @override
    async def aclose(self) -> None:
        """Close the idle connections; those in use are closed when they are released. New requests are refused."""
        self._pool.shut()

    async def _connect(self, origin: Origin, seconds: float) -> Connection:
        if self._pool.is_shut:
            raise httpx.ConnectError("the transport is closed")
        install_resolver()
        self._opening += 1
        try:
            with trio.move_on_after(seconds):
                connection = await open_connection(origin, self._context)
                self._pool.open.add(connection)
                return connection
        finally:
            self._opening -= 1
        raise httpx.ConnectTimeout(f"no connection within {seconds:g} s")


class ConnectionPool:
    """Last in, first out, one stack for each origin. Nobody waits here and nothing runs here: an idle connection is
    looked at when it is about to be used, and the oldest of a stack are trimmed when one is put back.

    open  every connection that is in use or idle
    """

    def __init__(self) -> None:
        self.open: set[Connection] = set()
        self.is_shut = False
        self._idle: dict[Origin, deque[Connection]] = {}

    def idle_count(self) -> int:
        return sum(map(len, self._idle.values()))

    def take(self, origin: Origin, now: float) -> Connection | None:
        """An idle connection to `origin` that nothing has come on, or None. Dead ones on the way are closed."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if now - connection.idle_since <= IDLE_SECONDS and connection.is_quiet():
                return connection
            self.close(connection)
        return None

    def give(self, connection: Connection, now: float) -> None:
        """Put back a connection that may carry another request."""
        if self.is_shut:
            self.close(connection)
            return
        connection.idle_since = now
        idle = self._idle.setdefault(connection.origin, deque())
        idle.append(connection)
        while len(idle) > MAX_IDLE or now - idle[0].idle_since > IDLE_SECONDS:
            self.close(idle.popleft())

    def close(self, connection: Connection) -> None:
        self.open.discard(connection)
        connection.close_now()

    def shut(self) -> None:
        self.is_shut = True
        for idle in self._idle.values():
            while idle:
                self.close(idle.pop())


class Link(httpx.AsyncByteStream):
    """One request and its response on one connection, which it owns from `ask` until it is released.

    As httpx's stream it can be iterated; `read` gives the same bytes with less work. A `read` that was cancelled ends
    the response: release it.
    """

    def __init__(self, pool: ConnectionPool, method: str, sent: Callable[[], None] | None = None) -> None:
        self._pool = pool
        self._sent = sent
        self._connection: Connection | None = None
        self._parser = ResponseParser(method)

    @property
    def has_answered(self) -> bool:
        """Whether a single byte of a response has come."""
        return self._parser.has_answered

    @property
    def status(self) -> int:
        return self._parser.status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As they came."""
        return self._parser.headers

    @property
    def at_end(self) -> bool:
        """The whole response has come, and all of its body has been taken."""
        return self._parser.is_complete and self._parser.fault is None and not self._parser.has_parts

    def response(self) -> httpx.Response:
        """This response as httpx knows it."""
        return httpx.Response(
            self._parser.status,
            headers=self._parser.headers,
            stream=self,
            extensions={"http_version": b"HTTP/1.1", READ: self.read, CLOSE: self.close_now},
        )

    async def ask(self, connection: Connection, message: bytes) -> None:
        """Send the request and wait for the head of the final answer. However this fails, the connection is closed."""
        self._connection = connection
        try:
            parser = self._parser
            unsent: httpx.WriteError | None = None
            try:
                await connection.send(message)
            except httpx.WriteError as error:
                unsent = error  # who refuses a long body may have answered before he closed: listen first
            if self._sent is not None:
                self._sent()
            try:
                while not parser.has_head and parser.fault is None:
                    parser.feed(await connection.receive())
            except httpx.ReadError:
                if unsent is not None:
                    raise unsent from None
                raise
            if parser.fault is not None and not parser.has_head:
                raise parser.fault
            if unsent is not None:
                parser.is_reusable = False
        except BaseException:
            self._parser.is_reusable = False
            self.close_now()
            raise

    async def read(self) -> bytes:
        """The body bytes that one read brought, b"" after the last. A fault is raised when the good bytes before it
        have been taken: `httpx.RemoteProtocolError` for wrong or missing bytes, `httpx.ReadError` for a lost
        connection."""
        parser = self._parser
        while True:
            if chunk := parser.take():
                return chunk
            if parser.fault is not None:
                self.close_now()
                raise parser.fault
            if parser.is_complete:
                self.close_now()
                return b""
            if self._connection is None:
                raise httpx.StreamClosed
            parser.feed(await self._connection.receive())

    async def watch(self, readiness: Readiness, take: Callable[[bytes], bool]) -> None:
        """Hand `take` the body bytes of each read, as they come, while it returns true. Returns when it returned false, and
        also when there is something that `read` has to say: the end, a fault, a lost connection."""
        connection, parser = self._connection, self._parser

        def feed(data: bytes) -> bool:
            parser.feed(data)
            chunk = parser.take()
            if chunk and not take(chunk):
                return False
            return parser.fault is None and not parser.is_complete

        if connection is not None and parser.fault is None and not parser.is_complete and not parser.has_parts:
            await connection.watch(readiness, feed)

    def close_now(self) -> None:
        """Release the connection: to the pool if the response has come to its end, else by closing it. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._parser.is_reusable:
            self._pool.give(connection, trio.current_time())
        else:
            self._pool.close(connection)
        self._parser.forget()

    @override
    def __aiter__(self) -> Link:
        return self

    async def __anext__(self) -> bytes:
        if chunk := await self.read():
            return chunk
        raise StopAsyncIteration

    @override
    async def aclose(self) -> None:
        self.close_now()


def origin_of(url: httpx.URL) -> Origin:
    """Which connections can carry a request for `url`. Raises `httpx.UnsupportedProtocol`."""
    port = url.port or _DEFAULT_PORTS.get(url.scheme)
    if port is None or not url.host:
        raise httpx.UnsupportedProtocol("only http:// and https:// addresses can be reached")
    return Origin(url.scheme, url.raw_host.decode("ascii"), port)
