"""The client's side of an exchange: what has been sent to it, and how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class Client:
    """ASGI's `send`, with the counts that the record needs. After the client has gone the server drops what is sent."""

    __slots__ = ("_send", "bytes_out", "chunks_out", "finished", "headers", "status")

    def __init__(self, send: Send, headers: Headers) -> None:
        """`headers` go with every answer of this exchange, whatever its outcome."""
        self._send = send
        self.headers = headers
        self.status: int | None = None
        self.finished = False
        self.bytes_out = 0
        self.chunks_out = 0

    async def start(self, status: int, headers: Headers) -> None:
        """Commit: from here on a failure can only be told in band."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers + self.headers})

    async def send(self, data: bytes) -> None:
        """Send a piece of the body; waits while the client does not read."""
        self.bytes_out += len(data)
        self.chunks_out += 1
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """Send the last piece. Nothing can follow."""
        self.finished = True
        self.bytes_out += len(data)
        if data:
            self.chunks_out += 1
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(
        self, status: int, body: bytes, headers: Headers, content_type: bytes = b"application/json"
    ) -> None:
        """Send a whole answer."""
        head = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
        await self.start(status, head)
        await self.finish(body)
