"""The client's side of an exchange: what has been sent to it, and how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from trio_ai_proxy.relay.scrutiny import Scrutiny

Send = Callable[[Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class Connection(Protocol):
    """The guarded server's side of an answer; see `serving.stream.GuardedStream`."""

    @property
    def can_write_now(self) -> bool: ...

    def write_now(self, data: bytes) -> bool: ...

    @property
    def backlog(self) -> bool: ...


class Client:
    """ASGI's `send`, with the counts that the record needs. After the client has gone the server drops what is sent."""

    __slots__ = (
        "_connection",
        "_send",
        "bytes_out",
        "chunks_out",
        "finished",
        "headers",
        "reshape",
        "scrutiny",
        "status",
    )

    def __init__(self, send: Send, headers: Headers, connection: Connection | None = None) -> None:
        """`headers` go with every answer of this exchange, whatever its outcome. `connection` is the guarded server's, and
        only for who has got its own `send`: what is sent now goes past anybody who has put one in between."""
        self._send = send
        self._connection = connection
        self.headers = headers
        self.status: int | None = None
        self.finished = False
        self.bytes_out = 0
        self.chunks_out = 0
        self.reshape: Callable[[Headers], Headers] | None = None  # who changes the headers, if anybody does
        self.scrutiny: Scrutiny | None = None  # who looks at what a stream consists of, if anybody does

    async def start(self, status: int, headers: Headers) -> None:
        """Commit: from here on a failure can only be told in band."""
        headers = headers + self.headers
        reshape, self.reshape = self.reshape, None  # once: should it fail, that is told without it
        if reshape is not None:
            headers = reshape(headers)
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes) -> None:
        """Send a piece of the body; waits while the client does not read."""
        self.bytes_out += len(data)
        self.chunks_out += 1
        if self.scrutiny is not None:
            self.scrutiny.send(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    @property
    def can_send_now(self) -> bool:
        """Whether `send_now` is worth trying."""
        return self._connection is not None and self._connection.can_write_now

    def send_now(self, data: bytes) -> bool:
        """Send a piece of the body if it can be done without waiting; else false, and nothing was sent. Only for who knows
        that no `send` is under way."""
        if self._connection is None or not self._connection.write_now(data):
            return False
        self.bytes_out += len(data)
        self.chunks_out += 1
        if self.scrutiny is not None:
            self.scrutiny.send(data)
        return True

    @property
    def backlog(self) -> bool:
        """Whether a part of what was sent now waits for `flush`."""
        return self._connection is not None and self._connection.backlog

    async def flush(self) -> None:
        """Wait until the client has taken the backlog."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """Send the last piece. Nothing can follow."""
        self.finished = True
        self.bytes_out += len(data)
        if data:
            self.chunks_out += 1
        if self.scrutiny is not None:
            self.scrutiny.finish(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(
        self, status: int, body: bytes, headers: Headers, content_type: bytes = b"application/json"
    ) -> None:
        """Send a whole answer."""
        head = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
        self.scrutiny = None
        await self.start(status, head)
        await self.finish(body)
