"""HTTP/1.1 on one connection, and nothing but HTTP/1.1.

Hypercorn's protocol with its doors closed: no h2c, no HTTP/2 by prior knowledge, no WebSocket; a request that two parsers
could read differently (Content-Length together with Transfer-Encoding) is refused and the connection closed. Bytes that
come before the answer is complete are kept, bounded, and never stop the reading, so that a departure is seen.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import h11
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, Request, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from typing_extensions import override

from trio_ai_proxy.serving.stream import GuardedStream

if TYPE_CHECKING:
    from hypercorn.typing import ConnectionState, H11SendableEvent, TaskGroup

    from trio_ai_proxy.serving.connection import GuardedServer

_STREAM_ID = 1
_REASONS = {
    400: ("bad_request", "The bytes received are not an HTTP/1.1 request."),
    431: ("headers_too_large", "The request line and headers are too large."),
}


class GuardedH11(H11Protocol):
    """The protocol of one connection `tcp`."""

    connection: h11.Connection
    stream: GuardedStream | None

    def __init__(
        self, tcp: GuardedServer, task_group: TaskGroup, state: ConnectionState, *, ssl: bool,
        client: tuple[str, int] | None, server: tuple[str, int] | None,
    ) -> None:  # fmt: skip
        super().__init__(tcp.app, tcp.config, tcp.context, task_group, state, ssl, client, server, tcp.protocol_send)
        # h11's own bound concerns incomplete heads; whole ones that came in one read are measured in _create_stream.
        self.connection = h11.Connection(h11.SERVER, max_incomplete_event_size=tcp.guard.max_head_bytes)
        self.tcp = tcp
        self._early_bytes = 0
        self._deaf = False  # nothing more is read as HTTP on this connection

    @property
    def idle(self) -> bool:
        """No request is being read or answered."""
        return self.stream is None and not self._deaf and self.connection.their_state is h11.IDLE

    # -- from the socket ----------------------------------------------------------------------------------------------

    @override
    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            if self._deaf or not event.data:
                return
            if self.stream is not None and self.connection.their_state in (h11.DONE, h11.MUST_CLOSE):
                # Pipelined bytes wait in h11's buffer; past the bound the connection serves nothing after this answer.
                self._early_bytes += len(event.data)
                if self._early_bytes > self.tcp.guard.max_early_bytes:
                    self._deaf = True
                    return
            self.connection.receive_data(event.data)
            await self._handle_events()
        elif isinstance(event, Closed):
            self._deaf = True
            if self.stream is not None:
                stream, self.stream = self.stream, None
                await stream.handle(StreamClosed(stream_id=_STREAM_ID))

    @override
    async def _handle_events(self) -> None:
        # Nothing here waits while things go well, so two tasks (the reader, and the one that finished an answer) cannot
        # interleave and reorder a body.
        while not self._deaf:
            if self.connection.their_state is h11.MUST_CLOSE:
                # The client has announced that this request is its last (or speaks HTTP/1.0). What it sends all the same
                # is not processed (RFC 9112 section 9.6), and h11, which calls it an error, is not asked.
                return
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint if error.error_status_hint in _REASONS else 400
                code, message = _REASONS[status]
                await self.refuse(status, code, f"{message} ({error})")
                return
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
            if isinstance(event, h11.Request):
                self.tcp.set_idle(False)
                await self._create_stream(event)
            elif self.stream is None:
                return
            elif isinstance(event, h11.Data):
                await self.stream.handle(Body(stream_id=_STREAM_ID, data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.handle(EndBody(stream_id=_STREAM_ID))

    @override
    async def _create_stream(self, request: h11.Request) -> None:
        headers = list(request.headers)
        if request.http_version not in (b"1.1", b"1.0"):
            await self.refuse(
                400, "http_version_not_supported", "This port speaks HTTP/1.1 only; HTTP/2 needs a proxy in front."
            )
            return
        if (
            sum(len(name) + len(value) + 4 for name, value in headers) + len(request.target)
            > self.tcp.guard.max_head_bytes
        ):
            await self.refuse(431, *_REASONS[431])
            return
        names = {name for name, _ in headers}
        if b"content-length" in names and b"transfer-encoding" in names:
            # RFC 9112 section 6.3: such a request ought to be handled as an error; it may be an attempt at smuggling.
            await self.refuse(400, "ambiguous_length", "Content-Length and Transfer-Encoding together are refused.")
            return
        if b"upgrade" in names and self.tcp.guard.h2c == "refuse":
            upgrade = next(value for name, value in headers if name == b"upgrade").lower()
            if upgrade.startswith(b"h2c"):
                await self.refuse(
                    400,
                    "http2_not_supported",
                    "This port speaks HTTP/1.1 only; send the request without `Upgrade: h2c`.",
                )
                return
        self._early_bytes = 0
        self.stream = GuardedStream(self.tcp, self)
        self.keep_alive_requests += 1
        await self.stream.handle(
            Request(
                stream_id=_STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        await self.context.mark_request()

    # -- to the socket ------------------------------------------------------------------------------------------------

    def encode(self, event: H11SendableEvent) -> bytes:
        """`event` as bytes; none where the connection is already beyond HTTP."""
        try:
            return self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.our_state is h11.ERROR or self.connection.their_state is h11.ERROR or self._deaf:
                return b""
            raise

    def closing_headers(self, names: set[bytes]) -> list[tuple[bytes, bytes]]:
        """`connection: close` where this answer is the connection's last, so that the client is told."""
        last = self.tcp.guard.draining or self._deaf or self.connection.their_state not in (h11.DONE, h11.MUST_CLOSE)
        return [(b"connection", b"close")] if last and b"connection" not in names else []

    async def send_continue(self) -> None:
        """The client waits for leave to send its body, and somebody has asked for that body."""
        data = self.encode(h11.InformationalResponse(status_code=100, headers=[]))
        if data:
            await self.tcp.push(data)

    async def refuse(self, status: int, code: str, message: str) -> None:
        """Answer with an error of the connection itself, in the shape that OpenAI clients read, and close."""
        kind = "internal_error" if status >= 500 else "invalid_request_error"
        body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
        headers = [
            (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]  # fmt: skip
        if self.connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            out = self.encode(h11.Response(status_code=status, headers=headers))
            out += self.encode(h11.Data(data=body)) if self.scope_method != "HEAD" else b""
            out += self.encode(h11.EndOfMessage())
            await self.tcp.push(out)
        self._deaf = True
        self.tcp.linger()

    @property
    def scope_method(self) -> str:
        return self.stream.scope["method"] if self.stream is not None else ""

    async def answered(self, *, cut: bool) -> None:
        """The current answer has been sent as far as it goes: keep the connection for the next request, or end it."""
        self.stream = None
        if cut:
            self.tcp.abort()
            return
        if (
            not self._deaf and not self.tcp.guard.draining and not self.context.terminated.is_set()
            and self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE
        ):  # fmt: skip
            self.connection.start_next_cycle()
            self.tcp.set_idle(True)
            await self._handle_events()  # what was pipelined
            return
        self._deaf = True
        self.tcp.linger()
