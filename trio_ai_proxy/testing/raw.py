"""A client on a real socket that does what it is told: any bytes, any way of leaving, nothing in the background."""

from __future__ import annotations

import json as json_module
import math
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

_RECEIVE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class TimedChunk:
    """Bytes of a body and when they came (`trio.current_time()`)."""

    at: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers of an answer, and when they were whole. Header names are in lower case."""

    at: float
    status: int
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """The first value of that header."""
        return next((value for key, value in self.headers if key == name.lower()), None)


class BodyCut(Exception):
    """The connection ended inside a body: before the terminating chunk, or before the announced length."""


class RawClient:
    """One connection to `host`:`port`, opened by `async with`. Leaving the block closes it in the ordinary way.

    receive_buffer  SO_RCVBUF in bytes, set before connecting: a small one makes a client that stops reading felt sooner
    Reading raises `trio.BrokenResourceError` if the other side resets the connection.
    """

    def __init__(self, host: str, port: int, *, receive_buffer: int | None = None) -> None:
        self.host = host
        self.port = port
        self._receive_buffer = receive_buffer
        self._pending = bytearray()
        self._is_chunked = False
        self._left: int | None = None  # bytes of the body still to come, where a length was announced
        self._body_ended = False

    async def __aenter__(self) -> Self:
        connection = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if self._receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await connection.connect((self.host, self.port))
        except BaseException:
            connection.close()
            raise
        self._stream = trio.SocketStream(connection)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.aclose()

    # ── Sending ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def send(self, chunk: bytes) -> None:
        """Send these bytes as they are."""
        await self._stream.send_all(chunk)

    async def post(self, path: str, *, json: Any, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Send a whole, well-formed POST request; read its answer with `read_head` and `read_chunk`."""
        body = json_module.dumps(json).encode()
        await self._request("POST", path, [("content-type", "application/json"), *headers], body)

    async def get(self, path: str, *, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Send a whole GET request."""
        await self._request("GET", path, headers, b"")

    async def delete(self, path: str, *, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Send a whole DELETE request."""
        await self._request("DELETE", path, headers, b"")

    async def _request(self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        framing = [("content-length", str(len(body)))] if body else []
        fields = [("host", f"{self.host}:{self.port}"), *framing, *headers]
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        await self.send("\r\n".join(lines).encode("latin-1") + body)

    # ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def read_head(self) -> Head:
        """The head of the next answer. Raises `BodyCut` if the connection ends first."""
        block = await self._take_until(b"\r\n\r\n")
        status_line, *lines = block.decode("latin-1").split("\r\n")
        headers = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        head = Head(trio.current_time(), int(status_line.split(" ", 2)[1]), headers)
        length = head.header("content-length")
        self._is_chunked = (head.header("transfer-encoding") or "").lower() == "chunked"
        self._left = int(length) if length is not None else None
        self._body_ended = False
        return head

    async def read_chunk(self) -> TimedChunk | None:
        """The next chunk of the body, None at its end. What a chunk is depends on the framing: a chunk of the chunked
        coding, or what was read at once. Raises `BodyCut` if the connection ends before the body does."""
        if self._body_ended:
            return None
        if self._is_chunked:
            size = int((await self._take_until(b"\r\n")).partition(b";")[0], 16)
            data = await self._take(size)
            await self._take(2)
        elif self._left is None:
            if not self._pending:
                await self._receive()
            data = await self._take(len(self._pending))
        else:
            if self._left and not self._pending:
                await self._fill()
            data = await self._take(min(self._left, len(self._pending)))
            self._left -= len(data)
        if not data:
            self._body_ended = True
            return None
        return TimedChunk(trio.current_time(), data)

    async def read_body(self) -> list[TimedChunk]:
        """All the chunks to the end of the body."""
        chunks = []
        while (chunk := await self.read_chunk()) is not None:
            chunks.append(chunk)
        return chunks

    async def read_all(self) -> bytes:
        """Everything that comes until the other side closes, unparsed."""
        while await self._receive():
            pass
        return await self._take(len(self._pending))

    async def _take_until(self, end: bytes) -> bytes:
        while (at := self._pending.find(end)) < 0:
            await self._fill()
        return (await self._take(at + len(end)))[: -len(end)]

    async def _take(self, count: int) -> bytes:
        while len(self._pending) < count:
            await self._fill()
        taken = bytes(self._pending[:count])
        del self._pending[:count]
        return taken

    async def _fill(self) -> None:
        if not await self._receive():
            raise BodyCut(f"the connection ended with {bytes(self._pending[:80])!r} left over")

    async def _receive(self) -> bool:
        chunk = await self._stream.receive_some(_RECEIVE_BYTES)
        self._pending += chunk
        return bool(chunk)

    # ── Leaving ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def fin(self) -> None:
        """Leave politely: a FIN goes out, then the socket is closed, and whatever still comes is answered by RST."""
        await self._stream.send_eof()
        await self._stream.aclose()

    async def rst(self) -> None:
        """Leave rudely: the connection is reset."""
        self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._stream.aclose()

    async def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        await self._stream.send_eof()

    async def stop_reading(self, seconds: float = math.inf) -> None:
        """Hold the connection without reading; it is the same as not calling any of the reading methods for so long."""
        await trio.sleep(seconds)
