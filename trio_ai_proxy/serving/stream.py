"""One request and its answer: ASGI on one side, bytes on the other.

The request body is a queue that never blocks the connection's reader, so that a departure is always seen. A body message
goes to the socket as framed bytes in one send, the head together with the first, the end with the last. What the application
does wrong, up to a `BaseException` of a library that panics, ends this request and nothing else.

An application that knows of it can do without a task that waits on `receive`: `scope["extensions"]["trio_ai_proxy.request"]`
is this object, and `on_departure` is called when the client has gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import trio
from hypercorn.protocol.http_stream import ASGIHTTPState
from hypercorn.utils import UnexpectedMessageError, suppress_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ai_proxy.serving.connection import GuardedServer
    from trio_ai_proxy.serving.protocol import Protocol

_NO_BYTES = b""


class Request:
    """A request as it is read. Its body waits here until somebody takes it."""

    __slots__ = (
        "_listener", "arrived", "awaits_continue", "body", "has_head", "headers", "is_complete", "keep_alive", "method",
        "target", "unread_bytes", "version",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.version = ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_head = False
        self.keep_alive = True
        self.awaits_continue = False
        self.is_complete = False
        self.body: list[bytes] = []
        self.unread_bytes = 0
        self.arrived: trio.Event | None = None
        self._listener: Callable[[bytes, bool], None] | None = None

    def feed(self, data: bytes) -> None:
        """More of the body."""
        if self._listener is not None:
            self._listener(data, False)
            return
        self.body.append(data)
        self.unread_bytes += len(data)
        self.wake()

    def complete(self) -> None:
        """The body's last byte has been read."""
        self.is_complete = True
        if self._listener is not None:
            self._listener(b"", True)
        self.wake()

    def listen(self, listener: Callable[[bytes, bool], None]) -> None:
        """Hand the body to `listener` from now on, what waits here first."""
        for data in self.body:
            listener(data, False)
        self.body.clear()
        self.unread_bytes = 0
        if self.is_complete:
            listener(b"", True)
        else:
            self._listener = listener

    def stop_listening(self) -> None:
        """What still comes is nobody's."""
        self._listener = None

    def wake(self) -> None:
        """Something has happened to it."""
        if self.arrived is not None:
            self.arrived.set()


class GuardedStream:
    """The answer to `request`. `tcp` and `protocol` are the connection that it came by."""

    __slots__ = (
        "_chunked", "_head", "_left", "_said_end", "_silent", "closed", "on_departure", "protocol", "request", "scope",
        "state", "tcp",
    )  # fmt: skip

    def __init__(self, tcp: GuardedServer, protocol: Protocol, request: Request) -> None:
        self.tcp = tcp
        self.protocol = protocol
        self.request = request
        self.closed = False
        self.state = ASGIHTTPState.REQUEST
        self.on_departure: Callable[[], None] | None = None
        self._said_end = False  # the application has been given the end of the body
        self._head = _NO_BYTES
        self._chunked = False
        self._left: int | None = None  # of the content-length that the application told
        self._silent = False  # HEAD, 204, 304: no body whatever the application sends

    def start(self) -> None:
        """Begin to serve it."""
        request, tcp = self.request, self.tcp
        path, _, query = request.target.partition(b"?")
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": request.version,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": request.method,
            "scheme": tcp.scheme,
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": tcp.config.root_path,
            "headers": request.headers,
            "client": tcp.client,
            "server": tcp.server,
            "state": tcp.state,
            "extensions": {"trio_ai_proxy.request": self},
        }
        tcp.nursery.start_soon(self._run)

    @property
    def stalled(self) -> bool:
        """Whether the client is gone because it stopped reading."""
        return self.tcp.stalled

    @property
    def has_begun(self) -> bool:
        """Whether the answer has begun."""
        return self.state is not ASGIHTTPState.REQUEST

    def client_left(self) -> None:
        """The client has gone, and nobody reads what is sent from now on."""
        self.closed = True
        self.request.wake()
        if self.on_departure is not None:
            self.on_departure()

    async def subscribe(self, on_body: Callable[[bytes, bool], None], on_departure: Callable[[], None]) -> None:
        """Have the body (piece, whether it is the last) and the departure of the client told as they happen, in place of
        `receive`. Both are called at once for what has happened already; neither may wait."""
        if self.request.awaits_continue and not self.closed:
            await self.protocol.send_continue(self.request)
        self.on_departure = on_departure
        self.request.listen(on_body)
        if self.closed:
            on_departure()

    # -- the application ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._serve()
        finally:
            # The scope holds this object, and what listens to it holds the exchange: left as circles, all that was made for
            # a request would wait for the collector.
            self.scope = {}
            self.on_departure = None
            self.request.stop_listening()

    async def _serve(self) -> None:
        try:
            await self.tcp.app(self.scope, self.receive, self.send, trio.to_thread.run_sync, trio.from_thread.run)  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001, ASYNC103  # what must go on upwards is raised again
            rest = self.tcp.contain(error, "application failed")
            if rest is not None:
                raise rest from None  # noqa: ASYNC104  # this is the cancellation
        if self.closed:
            return
        if self.state is ASGIHTTPState.REQUEST:
            self._close_quietly()
            await self.protocol.refuse(500, "internal_error", "The request could not be handled.")
            return
        # An answer that the application left unfinished is cut, so that nobody takes it for whole.
        self._close_quietly()
        self.protocol.answered(self.request, cut=True)

    async def receive(self) -> dict[str, Any]:
        """ASGI's `receive`. After the body it waits until the client has gone, or until the answer is complete."""
        request = self.request
        if request.awaits_continue and not self.closed:
            await self.protocol.send_continue(request)
        while True:
            if request.body:
                data = request.body[0] if len(request.body) == 1 else b"".join(request.body)
                request.body.clear()
                request.unread_bytes = 0
                self.tcp.resume_reading()
                self._said_end = request.is_complete
                return {"type": "http.request", "body": data, "more_body": not request.is_complete}
            if request.is_complete and not self._said_end:
                self._said_end = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self.closed:
                return {"type": "http.disconnect"}
            request.arrived = trio.Event()
            await request.arrived.wait()
            request.arrived = None

    async def send(self, message: Any) -> None:
        """ASGI's `send`."""
        kind = message["type"]
        if kind == "http.response.body" and self.state is ASGIHTTPState.RESPONSE:
            await self._send_body(message.get("body", _NO_BYTES), more=message.get("more_body", False))
        elif kind == "http.response.start" and self.state is ASGIHTTPState.REQUEST:
            self._start_response(int(message["status"]), message.get("headers", ()))
        else:
            raise UnexpectedMessageError(self.state, kind)

    @property
    def can_write_now(self) -> bool:
        """Whether `write_now` can be used for the rest of this answer: it has begun, in chunks, on a connection without TLS."""
        return self.state is ASGIHTTPState.RESPONSE and self._chunked and not self.closed and self.tcp.scheme == "http"

    def write_now(self, data: bytes) -> bool:
        """Hand more of the body to the socket, past `send`, if it can be done without waiting: an answer has begun, nothing
        else is on its way out, and there is no TLS. False: it cannot, and nothing was written.

        What the socket did not take stays in `backlog` and leaves before anything else; the next `send` waits for it.
        """
        if self._head or not data or not self.can_write_now:  # a chunk of nothing would be the end
            return False
        rest = self.tcp.push_now(b"%x\r\n%b\r\n" % (len(data), data))
        if rest is None:
            return False
        self._head = rest
        return True

    @property
    def backlog(self) -> bool:
        """Whether bytes wait for the next `send`."""
        return bool(self._head)

    def _start_response(self, status: int, given: Any) -> None:
        """Prepare the head; it leaves together with the first bytes of the body, in one segment."""
        self.state = ASGIHTTPState.RESPONSE
        if self.closed:
            return
        headers: list[tuple[bytes, bytes]] = []
        length: int | None = None
        for name, value in given:
            if b"\n" in value or b"\r" in value or b"\0" in value or b"\n" in name:
                raise ValueError(f"the response header {name!r} holds a control character")
            if name == b"content-length":
                length = int(value)
            headers.append((name, value))
        request = self.request
        self._silent = suppress_body(request.method, status)
        self._left = length
        self._chunked = length is None and request.version == "1.1" and not self._silent
        if self._chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        # Without a length or chunks, the end of the body is the end of the connection.
        if length is None and not self._chunked and not self._silent:
            request.keep_alive = False
        self._head = self.protocol.head(status, headers, last=self.protocol.is_last(request))

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        if self.closed:
            await (
                trio.lowlevel.checkpoint()
            )  # an application that sends on and on to nobody must not hold up the others
            return
        out, self._head = self._head, _NO_BYTES
        if data and not self._silent:
            if self._chunked:
                out = b"%b%x\r\n%b\r\n" % (out, len(data), data)
            else:
                out += data
                if self._left is not None:
                    self._left -= len(data)
                    if self._left < 0:
                        raise ValueError("the application sends more than it said")
        if more:
            if out:
                await self.tcp.push(out)
            return
        if self._chunked:
            out += b"0\r\n\r\n"
        self.state = ASGIHTTPState.CLOSED
        short = bool(self._left) and not self._silent
        if out:
            await self.tcp.push(out)
        if not self.closed:
            self._close_quietly()
            self.protocol.answered(self.request, cut=short)

    def _close_quietly(self) -> None:
        self.closed = True
        self.request.wake()
