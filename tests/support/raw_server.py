"""A TCP server that does exactly what a test says, byte by byte, and remembers what its peers did. Nothing of HTTP is
checked or repaired here: that is the point.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[["Peer"], Awaitable[None]]

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


END = b"0\r\n\r\n"


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers, b"", body]
    return b"\r\n".join(lines)


def open_fds() -> int:
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


class Peer:
    """One connection, seen from the server. `number` counts from 1 in order of arrival."""

    def __init__(self, stream: trio.abc.Stream, plain: socket.socket | trio.socket.SocketType, number: int) -> None:
        self.number = number
        self.requests: list[bytes] = []
        self.left = trio.Event()
        self.left_at: float | None = None
        self._stream = stream
        self._socket = plain
        self._pending = b""

    async def request(self) -> bytes:
        """The next request, head and body (by its content length); b"" once the peer is gone."""
        while True:
            head, found, rest = self._pending.partition(b"\r\n\r\n")
            if found:
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                if len(rest) >= length:
                    size = len(head) + 4 + length
                    request, self._pending = self._pending[:size], self._pending[size:]
                    self.requests.append(request)
                    return request
            data = await self._receive()
            if not data:
                return b""
            self._pending += data

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def finish(self) -> None:
        """FIN: we have said all."""
        await self._stream.aclose()

    async def say_goodbye(self) -> None:
        """TLS's close_notify, without closing the socket."""
        assert isinstance(self._stream, trio.SSLStream), "only TLS has one"
        await self._stream.unwrap()

    def reset(self) -> None:
        """RST, at once."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    async def until_left(self) -> None:
        """Wait until the peer has closed; what it sends before is dropped."""
        while await self._receive():
            pass

    async def _receive(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(65536))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data and not self.left.is_set():
            self.left_at = trio.current_time()
            self.left.set()
        return data


class RawServer:
    """Where it listens, and who came."""

    def __init__(self, host: str, port: int, scheme: str) -> None:
        self.host, self.port = host, port
        self.origin = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self.peers: list[Peer] = []

    @property
    def requests(self) -> list[bytes]:
        return [request for peer in self.peers for request in peer.requests]


@asynccontextmanager
async def raw_server(
    handler: Handler,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    name: str | None = None,
    port: int = 0,
) -> AsyncIterator[RawServer]:
    """Serve `handler` on a free port. A connection is closed when its handler returns; peers that vanish are no error.

    tls   speak TLS with this context
    name  the host's name in `origin`, if not its address
    port  this one in place of a free one
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    port = listeners[0].socket.getsockname()[1]
    server = RawServer(name or host, port, "https" if tls else "http")

    async def serve(stream: trio.SocketStream) -> None:
        outer = trio.SSLStream(stream, tls, server_side=True, https_compatible=True) if tls else stream
        peer = Peer(outer, stream.socket, len(server.peers) + 1)
        server.peers.append(peer)
        try:
            await handler(peer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            peer.left.set()
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


class BlackHole:
    """A port on which connections are neither accepted nor refused: its queue is full."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._fillers: list[socket.socket] = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def close(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._listener.close()
