"""One request and its answer: ASGI on one side, bytes on the other.

Subclassed from Hypercorn's stream for three reasons. The request body is a queue that never blocks the connection's
reader, so that a departure is always seen. A body message goes to the socket as framed bytes in one send. What the
application does wrong, up to a `BaseException` of a library that panics, ends this request and nothing else.
"""

from __future__ import annotations

from collections import deque
from time import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import h11
import trio
from hypercorn.protocol.events import Body, EndBody, Event, Request, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.utils import UnexpectedMessageError, build_and_validate_headers, suppress_body
from typing_extensions import override

if TYPE_CHECKING:
    from trio_ai_proxy.serving.connection import GuardedServer
    from trio_ai_proxy.serving.protocol import GuardedH11

_NO_BYTES = b""


class GuardedStream(HTTPStream):
    """A request. `tcp` and `protocol` are the connection that it came by."""

    def __init__(self, tcp: GuardedServer, protocol: GuardedH11) -> None:
        super().__init__(
            protocol.app, protocol.config, protocol.context, protocol.task_group, protocol.ssl, protocol.client,
            protocol.server, protocol.stream_send, 1,
        )  # fmt: skip
        self.tcp = tcp
        self.protocol = protocol
        self.unread_bytes = 0
        self._messages: deque[dict[str, Any]] = deque()
        self._arrived: trio.Event | None = None
        self._head = _NO_BYTES
        self._chunked = False
        self._counted = False  # a content-length was told: h11 keeps the count
        self._silent = False  # HEAD, 204, 304: no body whatever the application sends

    # -- from the connection ------------------------------------------------------------------------------------------

    @override
    async def handle(self, event: Event) -> None:
        if self.closed:
            return
        kind = type(event)
        if kind is Body:
            data = bytes(event.data)  # type: ignore[attr-defined]  # Body has it; `kind is` does not narrow
            self.unread_bytes += len(data)
            self._put({"type": "http.request", "body": data, "more_body": True})
        elif kind is EndBody:
            self._put({"type": "http.request", "body": b"", "more_body": False})
        elif kind is StreamClosed:
            self.closed = True
            self._put({"type": "http.disconnect"})
        elif isinstance(event, Request):
            self._start(event)

    def _start(self, event: Request) -> None:
        path, _, query = event.raw_path.partition(b"?")
        self.start_time = time()
        self.scope = {
            "type": "http",
            "http_version": event.http_version,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": event.method,
            "scheme": self.scheme,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": self.config.root_path,
            "headers": event.headers,
            "client": self.client,
            "server": self.server,
            "state": event.state,
            "extensions": {"trio_ai_proxy.connection": self.tcp},  # type: ignore[dict-item]  # ASGI allows any value
        }
        nursery = self.task_group._nursery  # type: ignore[attr-defined]  # noqa: SLF001  # checked in names.py
        nursery.start_soon(self._run)

    def _put(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        if self._arrived is not None:
            self._arrived.set()

    # -- the application ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.app_send, trio.to_thread.run_sync, trio.from_thread.run)  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001, ASYNC103  # what must go on upwards is raised again
            rest = self.tcp.contain(error, "application failed")
            if rest is not None:
                raise rest from None  # noqa: ASYNC104  # this is the cancellation
        await self.app_send(None)

    async def receive(self) -> dict[str, Any]:
        """ASGI's `receive`. After the body it waits until the client has gone, or until the answer is complete."""
        if self.protocol.connection.they_are_waiting_for_100_continue and not self.closed:
            await self.protocol.send_continue()
        while not self._messages:
            if self.closed:
                return {"type": "http.disconnect"}
            self._arrived = trio.Event()
            await self._arrived.wait()
            self._arrived = None
        message = self._messages.popleft()
        if message["type"] == "http.request":
            self.unread_bytes -= len(message["body"])
            self.tcp.resume_reading()
        return message

    @override
    async def app_send(self, message: Any) -> None:
        if message is None:
            await self._application_ended()
            return
        kind = message["type"]
        if kind == "http.response.body" and self.state is ASGIHTTPState.RESPONSE:
            await self._send_body(message.get("body", _NO_BYTES), more=message.get("more_body", False))
        elif kind == "http.response.start" and self.state is ASGIHTTPState.REQUEST:
            self._start_response(message)
        else:
            raise UnexpectedMessageError(self.state, kind)

    def _start_response(self, message: Any) -> None:
        """Prepare the head; it leaves together with the first bytes of the body, in one segment."""
        self.response = message
        self.state = ASGIHTTPState.RESPONSE
        if self.closed:
            return
        status = int(message["status"])
        headers = build_and_validate_headers(message.get("headers", ()))
        names = {name.lower() for name, _ in headers}
        self._silent = suppress_body(self.scope["method"], status)
        self._counted = b"content-length" in names
        self._chunked = not self._counted and self.scope["http_version"] == "1.1"
        headers += self.protocol.closing_headers(names)
        headers += self.config.response_headers("h11")
        self._head = self.protocol.encode(h11.Response(status_code=status, headers=headers))

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        if self.closed:
            await (
                trio.lowlevel.checkpoint()
            )  # an application that sends on and on to nobody must not hold up the others
            return
        out, self._head = self._head, _NO_BYTES
        if data and not self._silent:
            if self._chunked:
                out += b"%x\r\n%b\r\n" % (len(data), data)
            elif self._counted:
                out += self.protocol.encode(h11.Data(data=data))
            else:
                out += data
        if more:
            if out:
                await self.tcp.push(out)
            return
        self.state = ASGIHTTPState.CLOSED
        out += self.protocol.encode(h11.EndOfMessage())
        if out:
            await self.tcp.push(out)
        await self._close()

    async def _application_ended(self) -> None:
        if self.closed:
            return
        if self.state is ASGIHTTPState.REQUEST:
            await self.protocol.refuse(500, "internal_error", "The request could not be handled.")
        # An answer that the application left unfinished is cut, so that nobody takes it for whole.
        await self._close(cut=self.state is ASGIHTTPState.RESPONSE)

    async def _close(self, *, cut: bool = False) -> None:
        self.closed = True
        self._put({"type": "http.disconnect"})
        await self.protocol.answered(cut=cut)
