"""What HTTP/1.1 says in bytes. No sockets, no tasks: a request goes out as one string, a response is fed as it comes.

Strict where leniency has cost others: one framing of the body or none, three-digit statuses of a final answer, a head
of bounded size, no upgrade. llhttp, in its strict mode, refuses the rest (bare line feeds, folded lines, two lengths,
a length beside chunks).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httptools
import httpx

if TYPE_CHECKING:
    from collections.abc import Iterable

# h11, below the stock transport, gives up at 100 kB too; no provider's head comes near.
MAX_HEAD_BYTES = 100_000
MAX_HEADERS = 200

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_BREAKS_A_LINE = re.compile(rb"[\r\n\0]").search
_BREAKS_A_TARGET = re.compile(rb"[\x00-\x20\x7f]").search


class ResponseFault(httpx.RemoteProtocolError):
    """The response is not HTTP as it should be. The text is ours and quotes nothing, so it may be shown to anyone."""


class PrematureEnd(ResponseFault):
    """The connection was closed before the response was whole."""


def encode_request(request: httpx.Request) -> bytes:
    """The request as it goes on the wire, body included. The body must have been read (`request.content`).

    Raises `httpx.LocalProtocolError` where a part of it would break the framing (a line end in a header).
    """
    body = request.content
    return with_body(encode_head(request.method, request.url, request.headers.raw), body)


def encode_head(method: str, url: httpx.URL, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The request line and the headers, but for the body's length, which `with_body` adds. Raises as `encode_request`."""
    target = url.raw_path
    if method == "CONNECT" or not _TOKEN(method.encode("ascii", "replace")):
        raise httpx.LocalProtocolError("this method cannot be sent")
    if not target or _BREAKS_A_TARGET(target):
        raise httpx.LocalProtocolError("a character of the request's path cannot be sent")
    lines = [b"%s %s HTTP/1.1" % (method.encode("ascii"), target)]
    has_host = False
    for name, value in headers:
        if not _TOKEN(name) or _BREAKS_A_LINE(value):
            raise httpx.LocalProtocolError("a character of a request header cannot be sent")
        lowered = name.lower()
        if lowered in (b"transfer-encoding", b"content-length"):
            continue  # the body is whole in memory: it goes out with its true length
        has_host = has_host or lowered == b"host"
        lines.append(b"%s: %s" % (name, value))
    if not has_host:
        lines.insert(1, b"Host: " + url.netloc)
    lines.append(b"")
    return b"\r\n".join(lines)


def with_body(head: bytes, body: bytes) -> bytes:
    """The whole request: a head of `encode_head`, its end, and the body."""
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body) if body else head + b"\r\n"


class ResponseParser:
    """One response. `feed` takes what was received, `b""` being the end of the connection; it never raises: what was
    good before a fault is there to be taken, and then `fault` says what came after.

    status, headers   the final head, once `has_head`; interim (1xx) heads are skipped
    has_answered      any byte of a response has come
    is_complete       the message has ended
    is_reusable       … and the connection may carry another: nothing came behind it, and the provider did not say close
    """

    __slots__ = (
        "_bodyless", "_delimited", "_interim", "_llhttp", "_parts", "_unproductive",
        "fault", "has_answered", "has_head", "headers", "is_complete", "is_reusable", "status",
    )  # fmt: skip

    def __init__(self, method: str = "GET") -> None:
        self._llhttp: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._bodyless = method == "HEAD"
        self._interim = False
        self._delimited = False
        self._unproductive = 0  # bytes since the last byte of body: heads, trailers and chunk extensions are bounded
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.fault: ResponseFault | None = None
        self.has_answered = self.has_head = self.is_complete = self.is_reusable = False

    def feed(self, chunk: bytes) -> None:
        if self.fault is not None or self._llhttp is None:
            self.is_reusable = False
            return
        if not chunk:
            self._end()
            return
        self.has_answered = True
        self._unproductive += len(chunk)
        try:
            self._llhttp.feed_data(chunk)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.is_reusable = False
            if not self.is_complete and self.fault is None:
                self.fault = ResponseFault(f"not HTTP/1.1: {error}")
                self.fault.__cause__ = error
        if self._unproductive > MAX_HEAD_BYTES and not self.is_complete:
            self._refuse(f"more than {MAX_HEAD_BYTES} bytes without a byte of body")

    @property
    def has_parts(self) -> bool:
        """Whether there is something to `take`."""
        return bool(self._parts)

    def take(self) -> bytes:
        """The body bytes that have come since the last call, as one item; b"" if there are none."""
        parts = self._parts
        if len(parts) == 1:
            return parts.pop()
        whole = b"".join(parts)
        parts.clear()
        return whole

    def forget(self) -> None:
        """Let go of llhttp, which refers back to this object: without this, each response is left to the collector."""
        self._llhttp = None

    def _end(self) -> None:
        self.is_reusable = False
        if self.is_complete:
            return
        if not self.has_answered:
            self.fault = PrematureEnd("the connection was closed without an answer")
        elif not self.has_head:
            self.fault = PrematureEnd("the connection was closed within the response's head")
        elif self._delimited:
            self.fault = PrematureEnd("the connection was closed before the end of the body")
        else:
            self.is_complete = True  # the close is the end: whether it is whole, only the protocol above can tell

    def _refuse(self, what: str) -> None:
        self.is_reusable = False
        if self.fault is None:
            self.fault = ResponseFault(what)

    # -- llhttp calls these -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.is_complete:
            self.is_reusable = False  # bytes beyond the message: whatever they are, they are not the next answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it is a trailer
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._llhttp
        if self.is_complete or parser is None:
            return
        status = parser.get_status_code()
        if status == 101:
            self._refuse("the provider wants to change the protocol (101)")
        self._interim = 100 <= status < 200
        if self._interim:
            self.headers.clear()
            return
        self.status = status
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse("the response is not HTTP/1.1")
        if not 200 <= status <= 599:
            self._refuse(f"there is no status {status}")
        if len(self.headers) > MAX_HEADERS:
            self._refuse(f"more than {MAX_HEADERS} response headers")
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(f"response headers of more than {MAX_HEAD_BYTES} bytes")
        self._check_framing(self.headers, version)
        if self.fault is None:
            self.has_head = True
            self.is_complete = self._bodyless

    def _check_framing(self, headers: Iterable[tuple[bytes, bytes]], version: str) -> None:
        codings = []
        for name, value in headers:
            lowered = name.lower()
            if lowered == b"transfer-encoding":
                codings.append(value.strip().lower())
            elif lowered == b"content-length":
                self._delimited = True
        if codings:
            # llhttp takes `gzip, chunked`, `chunked` twice, and any other coding up to the close. Nobody asked for
            # them.
            if codings != [b"chunked"] or version == "1.0":
                self._refuse("a transfer encoding that was not asked for")
            self._delimited = True

    def on_body(self, data: bytes) -> None:
        self._unproductive = 0
        if not self.is_complete:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._interim or self.is_complete or self._llhttp is None:
            return
        self.is_complete = True
        self.is_reusable = self.fault is None and self._llhttp.should_keep_alive()
