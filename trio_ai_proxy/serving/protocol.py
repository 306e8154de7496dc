"""HTTP/1.1 on one connection, and nothing but HTTP/1.1.

The bytes are read by llhttp (Node.js's parser): strict, and a fraction of the cost of a parser in Python. On top of its
strictness: no h2c, no HTTP/2 by prior knowledge, no WebSocket; a request that two parsers could read differently
(Content-Length together with Transfer-Encoding) is refused and the connection closed. Bytes that come before the current
answer is complete are kept, bounded, and never stop the reading, so that a departure is seen.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from trio_ai_proxy.serving.stream import GuardedStream, Request

if TYPE_CHECKING:
    from trio_ai_proxy.serving.connection import GuardedServer

Headers = list[tuple[bytes, bytes]]

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_HTTP_2 = (400, "http_version_not_supported", "This port speaks HTTP/1.1 only; HTTP/2 needs a proxy in front.")
# RFC 9112 section 6.3: such a request ought to be handled as an error; it may be an attempt at smuggling.
_TWO_LENGTHS = (400, "ambiguous_length", "Content-Length and Transfer-Encoding together are refused.")
# What llhttp says → what we say.
_REFUSALS = {
    "Transfer-Encoding can't be present with Content-Length": _TWO_LENGTHS,
    "Content-Length can't be present with Transfer-Encoding": _TWO_LENGTHS,
    "PRI/Upgrade": _HTTP_2,
}
_HEAD_TOO_LARGE = (431, "headers_too_large", "The request line and headers are too large.")


class BadRequest(Exception):
    """These bytes get an error of the connection itself, and the connection ends."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Protocol:
    """The requests of one connection `tcp`, one after the other.

    stream  the request that is being answered, or None
    """

    def __init__(self, tcp: GuardedServer) -> None:
        self.tcp = tcp
        self.stream: GuardedStream | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request: Request | None = None  # the one that is being read
        self._waiting: list[Request] = []  # pipelined behind the one that is being answered
        self._head_bytes = 0
        self._early_bytes = 0
        self._refusal: BadRequest | None = None
        self._asks_to_leave: Request | None = None  # its head asks to upgrade the connection
        self._deaf = False  # nothing more is read as HTTP on this connection

    @property
    def idle(self) -> bool:
        """No request is being read or answered."""
        return self.stream is None and self._request is None and not self._deaf

    # -- from the socket ----------------------------------------------------------------------------------------------

    async def receive(self, data: bytes | bytearray) -> None:
        """Take what was read. Waits for nothing but, where it refuses, for the refusal to be written."""
        if self._deaf:
            return
        if self.stream is not None and (self._request is None or self._request is not self.stream.request):
            # Pipelined; past the bound the connection serves nothing after this answer.
            self._early_bytes += len(data)
            if self._early_bytes > self.tcp.guard.max_early_bytes:
                self._deaf = True
                self._waiting.clear()
                return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            await self._stay(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            await self._fail(self._refusal or _explain(error))
            return
        # Heads, and with chunks trailers and extensions: whatever is neither a body nor its end.
        if self._request is not None and self._head_bytes > self.tcp.guard.max_head_bytes:
            await self._fail(BadRequest(*_HEAD_TOO_LARGE))

    async def _stay(self, rest: bytes | bytearray) -> None:
        """The client asks to speak something else from here on, and llhttp gives way: it ends the request at its head.
        Such a wish may be ignored (RFC 9110 section 7.8), so the request is read again, without it. After CONNECT
        there is nothing more to read."""
        request, self._asks_to_leave = self._asks_to_leave, None
        if request is None:
            self._deaf = True
            return
        lines = [b"%b %b HTTP/%b" % (request.method.encode("ascii"), request.target, request.version.encode("ascii"))]
        for name, value in request.headers:
            if name == b"connection":
                lines += [b"connection: close"] if b"close" in value.lower() else []
            elif name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        self._parser = httptools.HttpRequestParser(self)
        self._request = None
        await self.receive(b"\r\n".join([*lines, b"", bytes(rest)]))

    def closed(self) -> None:
        """Nothing more comes: the client is gone."""
        self._deaf = True
        self._waiting.clear()
        if self.stream is not None:
            self.stream.client_left()
            self.stream = None

    # llhttp's callbacks. What one of them raises reaches `receive` as a parser error; `_refusal` says what it was.

    def on_message_begin(self) -> None:
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        if self._request is not None:
            self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._request is not None and not self._request.has_head:  # else it is a trailer
            self._request.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        request = self._request
        if request is None:
            return
        try:
            self._check(request)
        except BadRequest as error:
            self._refusal = error
            raise
        if self._parser.should_upgrade() and request.method != "CONNECT":
            self._asks_to_leave = request
            self._request = None
            return
        request.has_head = True
        request.keep_alive = self._parser.should_keep_alive()
        self._head_bytes = 0
        self.tcp.set_idle(False)
        if self.stream is None:
            self._start(request)
        else:
            self._waiting.append(request)

    def on_body(self, data: bytes) -> None:
        self._head_bytes = 0
        if self._request is not None:
            self._request.feed(data)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        request, self._request = self._request, None
        if request is not None:
            request.complete()

    def _check(self, request: Request) -> None:
        """Refuse what llhttp lets pass and we do not."""
        request.method = self._parser.get_method().decode("ascii")
        request.version = self._parser.get_http_version()
        if request.version not in ("1.1", "1.0"):
            raise BadRequest(
                400, "http_version_not_supported", "This port speaks HTTP/1.1 only; HTTP/2 needs a proxy in front."
            )
        size = len(request.target)
        hosts = 0
        coded = False
        for name, value in request.headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                # llhttp takes others before a last `chunked`, and two parsers may not agree on which is the last.
                if value.strip().lower() != b"chunked" or coded or request.version == "1.0":
                    raise BadRequest(400, "bad_request", "The only transfer encoding that is understood is `chunked`.")
                coded = True
            elif name == b"expect":
                request.awaits_continue = value.strip().lower() == b"100-continue" and request.version == "1.1"
            elif name == b"upgrade" and value.strip().lower().startswith(b"h2c") and self.tcp.guard.h2c == "refuse":
                raise BadRequest(
                    400,
                    "http2_not_supported",
                    "This port speaks HTTP/1.1 only; send the request without `Upgrade: h2c`.",
                )
        if size > self.tcp.guard.max_head_bytes:
            raise BadRequest(*_HEAD_TOO_LARGE)
        if hosts != 1 and (request.version == "1.1" or hosts):
            raise BadRequest(400, "bad_request", "A request has exactly one Host header.")

    def _start(self, request: Request) -> None:
        self._early_bytes = 0
        context = self.tcp.context
        if context.max_requests is not None:  # `hypercorn --max-requests`
            self.tcp.nursery.start_soon(context.mark_request)
        self.stream = GuardedStream(self.tcp, self, request)
        self.stream.start()

    # -- to the socket ------------------------------------------------------------------------------------------------

    def head(self, status: int, headers: Headers, *, last: bool) -> bytes:
        """A response's head. `last`: the connection ends after it, and the client is told."""
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        lines += [b"%b: %b\r\n" % pair for pair in headers]
        lines.append(self.tcp.guard.date_header())
        lines.append(b"connection: close\r\n\r\n" if last else b"\r\n")
        return b"".join(lines)

    def is_last(self, request: Request) -> bool:
        """Whether the connection ends after the answer to `request`."""
        tcp = self.tcp
        return (
            not request.keep_alive
            or not request.is_complete
            or self._deaf
            or tcp.guard.draining
            or tcp.context.terminated.is_set()
        )

    async def _fail(self, error: BadRequest) -> None:
        """The bytes are not what they should be. A request that came whole keeps its answer; one whose body broke off is
        over, as if its client had left, and told so if nothing else has been said."""
        self._deaf = True
        stream = self.stream
        if stream is None:
            await self.refuse(error.status, error.code, error.message)
        elif not stream.request.is_complete:
            self.stream = None
            stream.client_left()
            if stream.has_begun:
                self.tcp.abort()
            else:
                await self.refuse(error.status, error.code, error.message)

    async def refuse(self, status: int, code: str, message: str) -> None:
        """Answer with an error of the connection itself, in the shape that OpenAI clients read, and close."""
        self._deaf = True
        kind = "internal_error" if status >= 500 else "invalid_request_error"
        body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.tcp.push(self.head(status, headers, last=True) + body)
        self.tcp.linger()

    async def send_continue(self, request: Request) -> None:
        """The client waits for leave to send its body, and somebody has asked for that body."""
        request.awaits_continue = False
        await self.tcp.push(b"HTTP/1.1 100 Continue\r\n\r\n")

    def answered(self, request: Request, *, cut: bool) -> None:
        """The current answer has been sent as far as it goes: keep the connection for the next request, or end it."""
        self.stream = None
        if cut:
            self.tcp.abort()
        elif self._deaf or self.is_last(request):
            self._deaf = True
            self.tcp.linger()
        elif self._waiting:
            self._start(self._waiting.pop(0))
        elif self._request is None:
            self.tcp.set_idle(True)


def _explain(error: httptools.HttpParserError) -> BadRequest:
    """llhttp's refusal in our words where it matters what it was."""
    said = str(error)
    for words, refusal in _REFUSALS.items():
        if words in said:
            return BadRequest(*refusal)
    return BadRequest(400, "bad_request", f"The bytes received are not an HTTP/1.1 request ({said[:100]}).")
