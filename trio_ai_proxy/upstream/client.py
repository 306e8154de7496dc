"""One client for each provider: our request in, its response out, and every failure one of our errors.

It calls the transport directly. What `httpx.AsyncClient` adds above it (redirects, cookies, proxies from the
environment, authentication, decoding) must all be off here, a jar that carries one caller's cookies to the next first
of all, and it costs a quarter of a millisecond a request. The seam is `httpx.AsyncBaseTransport`: ours, the stock one
(HTTP/2, proxies), a scripted one or the user's own, all by the same path.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

import httpx
import trio
from typing_extensions import override

from trio_ai_proxy import __version__
from trio_ai_proxy.errors import (
    ConfigError,
    TruncatedStream,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from trio_ai_proxy.upstream.connection import reason, tls_context
from trio_ai_proxy.upstream.http1 import PrematureEnd, ResponseFault, encode_head, with_body
from trio_ai_proxy.upstream.resolver import install_resolver
from trio_ai_proxy.upstream.transport import CLOSE, READ, SENT, TrioTransport, origin_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from types import TracebackType
    from typing import Self

    from trio_ai_proxy.providers.base import UpstreamRequest
    from trio_ai_proxy.settings import ProviderSettings
    from trio_ai_proxy.upstream.connection import Origin
    from trio_ai_proxy.upstream.readiness import Readiness
    from trio_ai_proxy.upstream.transport import Link

HTTPX_ERRORS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict)
"""The roots of everything that httpx raises. `InvalidURL`, the stream errors and `CookieConflict` are no
`HTTPError`."""

CLOSE_SECONDS = 2.0
MAX_PREPARED = 64
MAX_CHUNKS_IN_MEMORY = 20_000  # one read of 64 KiB holds fewer: a chunk takes six bytes at least
_USER_AGENT = f"trio-ai-proxy/{__version__}".encode("ascii")

# Addresses come from configuration, so there are few; parsing one costs as much as the rest of a request's head.
_parse_url = lru_cache(maxsize=256)(httpx.URL)


class UpstreamClient:
    """Opens requests to one provider. Lives as long as the gateway; `aclose` it, or use it as a context manager."""

    def __init__(
        self,
        settings: ProviderSettings,
        transport: httpx.AsyncBaseTransport | None = None,
        readiness: Readiness | None = None,
        *,
        who: str | None = None,
    ) -> None:
        """`transport` goes before what the settings say; `readiness` is what responses are watched with; `who` is what errors
        call the other side, where that is no provider. Raises `ConfigError` where the settings cannot be had."""
        self.name = settings.name
        self._who = who or f"Provider '{settings.name}'"
        self._readiness = readiness
        self.transport = transport if transport is not None else _transport(settings)
        self._prepared: dict[tuple[object, ...], tuple[Origin, bytes]] = {}

    @property
    def open_connections(self) -> int | None:
        """Connections that exist now, idle ones included; None where the transport does not count them."""
        return self.transport.open_connections if isinstance(self.transport, TrioTransport) else None

    async def open(
        self, request: UpstreamRequest, *, connect: float, sent: Callable[[], None] = lambda: None
    ) -> UpstreamResponse:
        """Send `request` and wait for the head of the response, which the caller must close.

        `connect` bounds, in seconds, the time to a connection, TLS included. There is no deadline for the head: that is
        a scope of the caller's. Whatever the status, a response is a response. `sent` is called when the request is on
        its way and only the provider is waited for.

        Raises `UpstreamTimeout` ("connect"), `UpstreamRefused`, `UpstreamProtocolError`.
        """
        began = trio.current_time()
        try:
            if isinstance(self.transport, TrioTransport):
                origin, head = self._prepare(request)
                outgoing_bytes = with_body(head, request.body)
                link = await self.transport.ask(origin, outgoing_bytes, request.method, connect=connect, sent=sent)
                return UpstreamResponse.of_link(link, self._who, self._readiness)
            install_resolver()  # the stock transport looks names up in this run too
            outgoing = httpx.Request(
                request.method,
                _parse_url(request.url),
                headers=_headers(request),
                content=request.body,
                extensions={
                    "timeout": {"connect": connect, "read": None, "write": None, "pool": None},
                    SENT: sent,
                },
            )
            outgoing.stream = _Body(request.body)
            response = await self.transport.handle_async_request(outgoing)
        except httpx.ConnectTimeout as error:
            message = f"{self._who} could not be connected to within {connect:g} s."
            raise UpstreamTimeout("connect", connect, message) from error
        except HTTPX_ERRORS as error:
            waited = trio.current_time() - began
            raise upstream_error(error, self._who, deadline="first_token", waited=waited) from error
        return UpstreamResponse.of_httpx(response, self._who)

    def _prepare(self, request: UpstreamRequest) -> tuple[Origin, bytes]:
        """Where `request` goes, and its head. Most come from the configuration, so there are few, and they are kept; where
        each request is signed for itself there is no end of them, and they are not kept for long."""
        key = (request.method, request.url, request.headers)
        prepared = self._prepared.get(key)
        if prepared is None:
            if len(self._prepared) >= MAX_PREPARED:
                self._prepared.clear()
            url = httpx.URL(request.url)
            prepared = self._prepared[key] = (origin_of(url), encode_head(request.method, url, _headers(request)))
        return prepared

    async def aclose(self) -> None:
        """Close idle connections. Responses that are still open keep theirs until they are closed."""
        await self.transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self.aclose()


class _Body(httpx.AsyncByteStream):
    """A request's body. httpx's own is a generator, which the stock transport leaves suspended when sending fails."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._is_given = False

    @override
    def __aiter__(self) -> _Body:
        return _Body(self._body)

    async def __anext__(self) -> bytes:
        if self._is_given:
            raise StopAsyncIteration
        self._is_given = True
        return self._body


class UpstreamResponse:
    """A response whose body has yet to be read.

    status   200 to 599
    headers  names in lower case; a repeated header's values joined by ", "
    """

    __slots__ = (
        "_chunks", "_close", "_is_closed", "_link", "_read", "_readiness", "_stream", "_who", "headers", "status",
    )  # fmt: skip

    def __init__(self, status: int, headers: Mapping[str, str], who: str) -> None:
        self.status = status
        self.headers = headers
        self._who = who
        self._link: Link | None = None
        self._readiness: Readiness | None = None
        self._stream: httpx.AsyncByteStream | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._read: Callable[[], Awaitable[bytes]] = self._read_next
        self._close: Callable[[], None] | None = None
        self._is_closed = False

    @classmethod
    def of_link(cls, link: Link, who: str, readiness: Readiness | None = None) -> UpstreamResponse:
        """A response of our own transport."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in link.headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        response = cls(link.status, headers, who)
        response._link = link
        response._readiness = readiness
        response._read = link.read
        response._close = link.close_now
        return response

    @classmethod
    def of_httpx(cls, response: httpx.Response, who: str) -> UpstreamResponse:
        """A response of any other transport."""
        made = cls(response.status_code, dict(response.headers), who)
        made._stream = cast("httpx.AsyncByteStream", response.stream)
        made._read = response.extensions.get(READ, made._read_next)
        made._close = response.extensions.get(CLOSE)
        return made

    @property
    def at_end(self) -> bool:
        """The whole body is known to have been read, without looking further."""
        return self._link is not None and self._link.at_end

    async def read(self) -> bytes:
        """The body bytes of one read; b"" at the end, which is clean as far as HTTP can tell.

        A read that was cancelled ends the response: close it. Raises `TruncatedStream` when the body stops before its
        end, `UpstreamProtocolError` for wrong bytes, `UpstreamRefused` for a lost connection, and `UpstreamTimeout`
        ("idle") where a transport keeps a deadline of its own.
        """
        began = trio.current_time()
        try:
            return await self._read()
        except HTTPX_ERRORS as error:
            waited = trio.current_time() - began
            raise upstream_error(error, self._who, deadline="idle", waited=waited) from error

    @property
    def can_watch(self) -> bool:
        """Whether `watch` can be used: over our own transport, while the gateway runs, and on Linux."""
        return self._link is not None and self._readiness is not None and self._readiness.is_running

    async def watch(self, take: Callable[[bytes], bool]) -> None:
        """Hand `take` the body bytes of each read, as they come, while it returns true; it must not wait. Returns when it
        returned false, and whenever `read` has something to say that is no more bytes. Where many streams bring a token at a
        time this costs a third of what `read` does (`upstream.readiness`)."""
        if self._link is not None and self._readiness is not None:
            await self._link.watch(self._readiness, take)

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole body. Raises `UpstreamProtocolError` when it is longer than `max_bytes`, and what `read` raises."""
        chunks: list[bytes] = []
        size = 0
        while chunk := await self.read():
            size += len(chunk)
            if size > max_bytes:
                raise UpstreamProtocolError(f"{self._who} sent an answer of more than {max_bytes} bytes.")
            chunks.append(chunk)
        return b"".join(chunks)

    async def aclose(self) -> None:
        """Release the connection. Idempotent. Our transport does it at once; another gets a short time, and cancelling
        does not interrupt it."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._close is not None:
            self._close()
            return
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            try:
                if self._chunks is not None:
                    await _unwind(self._chunks)
                if self._stream is not None:
                    await self._stream.aclose()
            except HTTPX_ERRORS:
                pass  # nothing more is wanted from it

    async def _read_next(self) -> bytes:
        if self._chunks is None:
            if self._stream is None:
                return b""
            self._chunks = aiter(self._stream)
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


async def _unwind(chunks: AsyncIterator[bytes]) -> None:
    """Bring an iteration that nobody goes on with to its end.

    The stock transport's is a chain of six generators. Closing the first leaves the others, suspended, to the
    collector, and the connection with them. Woken in a cancelled scope, the last one gives what it has in memory and
    is then cancelled at its next read, so that each does its own tidying up, in order.
    """
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        for _ in range(MAX_CHUNKS_IN_MEMORY):
            try:
                await anext(chunks)
            except (StopAsyncIteration, *HTTPX_ERRORS):
                return


def upstream_error(error: Exception, who: str, *, deadline: str, waited: float) -> UpstreamError:
    """Our error for one of httpx's (`HTTPX_ERRORS`). Its message quotes no text of a transport that is not ours: such
    texts may hold addresses with credentials in them, and they stay in the cause.

    who               what is at the other side, at the beginning of a sentence
    deadline, waited  which wait it was and how many seconds it lasted, for a transport that has deadlines of its own
    """
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return UpstreamTimeout("connect", waited, f"{who} could not be connected to within {waited:.3g} s.")
        case httpx.TimeoutException():
            return UpstreamTimeout(deadline, waited, f"{who} did not go on within {waited:.3g} s.")
        case httpx.NetworkError():
            what = "cannot be reached" if isinstance(error, httpx.ConnectError) else "broke the connection off"
            why = reason(error)
            return UpstreamRefused(f"{who} {what}: {why}." if why else f"{who} {what}.")
        case httpx.ProxyError():
            return UpstreamRefused(f"{who} cannot be reached: the forward proxy refused.")
        case httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return UpstreamRefused(f"{who} cannot be reached: its address cannot be used.")
        case PrematureEnd():
            return TruncatedStream(f"{who} stopped before the end: {error}.")
        case ResponseFault():
            return UpstreamProtocolError(f"{who} sent a wrong response: {error}.")
        case httpx.RemoteProtocolError():
            # httpcore says so in words only.
            if "peer closed connection" in str(error):
                return TruncatedStream(f"{who} stopped before the end: the connection was closed.")
            return UpstreamProtocolError(f"{who} sent a wrong response.")
        case httpx.LocalProtocolError():
            return UpstreamProtocolError(f"{who} cannot be sent this request.")
        case _:
            return UpstreamProtocolError(f"{who} sent a response that cannot be read.")


def _headers(request: UpstreamRequest) -> list[tuple[bytes, bytes]]:
    """A compressed event stream cannot be bounded, so identity is asked for, whatever the configuration says."""
    headers = [(name, value) for name, value in request.headers if name.lower() != b"accept-encoding"]
    headers.append((b"accept-encoding", b"identity"))
    if not any(name.lower() == b"user-agent" for name, _ in headers):
        headers.append((b"user-agent", _USER_AGENT))
    return headers


def _transport(settings: ProviderSettings) -> httpx.AsyncBaseTransport:
    if settings.transport == "own" and (settings.http2 or settings.proxy):
        raise ConfigError([f'[providers.{settings.name}] http2 and proxy need transport = "httpx"'])
    try:
        context = tls_context(settings.ca_file)
    except OSError as error:
        raise ConfigError([f"[providers.{settings.name}] ca_file cannot be used: {reason(error)}"]) from error
    if settings.transport == "own":
        return TrioTransport(context)
    # No limit of its own: its queue does not survive cancellation, and its limit on idle connections counts busy ones.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1_000_000, keepalive_expiry=30.0)
    return httpx.AsyncHTTPTransport(
        verify=context, trust_env=False, http2=settings.http2, limits=limits, proxy=settings.proxy
    )
