"""A scripted upstream on a real port of the loopback interface: HTTP/1.1 laid by hand, so that every fault is exact.

What it saw of the gateway's side of the connection is in `exchanges`: when each request came, and when its connection
was seen closed. A reader waits for that closing while the answer is being written: the time is true to the millisecond.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import trio

from trio_ai_proxy.upstream.script import Script, Step

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

_RECEIVE_BYTES = 65536
_MAX_HEAD_BYTES = 65536


@dataclass(frozen=True, slots=True)
class WireScript(Script):
    """A `Script` with a say in how its bytes are laid on the wire. The defaults play it as a plain `Script` is played.

    framing          chunked; with a Content-Length (the steps are then counted in advance); or until we close
    cut              how `ending="cut"` breaks the connection
    cut_inside       whether the break comes inside a chunk (or before the announced length), or between two whole ones;
                     a cut between two chunks still lacks the terminating one
    instead_of_head  these bytes in place of status line and headers; the steps follow them as they are
    instead_of_end   these bytes in place of the terminating chunk (a bad chunk size, say)
    after_end        bytes after the end of the answer, on the same connection
    drip             seconds between two single bytes of a step; 0 sends each step at once
    """

    framing: Literal["chunked", "length", "until-close"] = "chunked"
    cut: Literal["fin", "rst"] = "fin"
    cut_inside: bool = True
    instead_of_head: bytes | None = None
    instead_of_end: bytes | None = None
    after_end: bytes = b""
    drip: float = 0.0


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """What the gateway sent. `headers` as they came, names in lower case."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of that header."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


@dataclass(slots=True, eq=False)
class ServerExchange:
    """One request and what became of it. Times are `trio.current_time()`.

    opened_at     when the whole request had come
    released_at   when the gateway's end of the connection was seen closed before the answer was complete, else None
    is_complete   whether the whole answer was sent, its end included
    chunks_sent   steps given to the socket whole
    bytes_sent    bytes of steps given to the socket, without head and framing
    over          set when the answer is complete, was broken off by the script, or was released
    """

    request: ReceivedRequest
    opened_at: float
    released_at: float | None = None
    is_complete: bool = False
    chunks_sent: int = 0
    bytes_sent: int = 0
    over: trio.Event = field(default_factory=trio.Event)


Answer = Callable[[ReceivedRequest], Script]


class ScriptedServer:
    """`async with ScriptedServer(answer) as server:` serves on `server.url` until the block is left.

    answer  called with each request; a `Script` or a `WireScript`, or either of them itself to answer everything alike.
            `refuse=True` resets the connection when the request has come; `refuse_connections` refuses it before.
    An exception of `answer`, and a request that is not HTTP/1.1, end the block with that exception.
    """

    def __init__(self, answer: Answer | Script) -> None:
        self._answer: Answer = (lambda _: answer) if isinstance(answer, Script) else answer
        self.exchanges: list[ServerExchange] = []
        self.connections = 0  # accepted so far
        self.open_connections = 0
        self.port = 0
        self._listening: trio.CancelScope | None = None

    @property
    def url(self) -> str:
        """The origin, without a path: `http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            await self.accept_connections()
            self._running = stack.pop_all()
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        return self._stop()

    async def _stop(self) -> None:
        # The nursery is not told of the block's exception, which would come out wrapped in a group.
        async with self._running:
            self._nursery.cancel_scope.cancel()

    async def accept_connections(self) -> None:
        """Listen: on a free port the first time, on the same one ever after."""
        if self._listening is None:
            [listener] = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            self._listening = trio.CancelScope()
            self._stopped_listening = trio.Event()
            self._nursery.start_soon(self._listen, listener, self._listening, self._stopped_listening)

    async def refuse_connections(self) -> None:
        """Stop listening: the system then refuses new connections. Those that are open go on."""
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
            await self._stopped_listening.wait()

    async def _listen(self, listener: trio.SocketListener, until: trio.CancelScope, stopped: trio.Event) -> None:
        with until:
            await trio.serve_listeners(self._serve, [listener], handler_nursery=self._nursery)
        stopped.set()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            await _Connection(stream, self._answer, self.exchanges).run()
        finally:
            self.open_connections -= 1


class _Broken(Exception):
    """The script broke the connection off."""


class _Connection:
    """One accepted connection: one task plays, the other reads all the time, so that a departure is seen at once."""

    def __init__(self, stream: trio.SocketStream, answer: Answer, exchanges: list[ServerExchange]) -> None:
        self._stream = stream
        self._answer = answer
        self._exchanges = exchanges
        self._pending = bytearray()
        self._arrival = trio.Event()
        self._exchange: ServerExchange | None = None
        self._is_released = False

    async def run(self) -> None:
        async with self._stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._read, nursery.cancel_scope)
            try:
                while (request := await self._next_request()) is not None:
                    self._exchange = ServerExchange(request, opened_at=trio.current_time())
                    self._exchanges.append(self._exchange)
                    if self._is_released:  # the request and the end came together, and the reader was first
                        self._note_release()
                    is_reusable = await self._play(self._answer(request), self._exchange)
                    self._exchange.over.set()
                    self._exchange = None
                    if not is_reusable:
                        break
            except _Broken:
                if self._exchange is not None:
                    self._exchange.over.set()
            except trio.BrokenResourceError:
                # A write failed: the gateway has reset the connection, and the reader has not come round to say so.
                self._note_release()
            nursery.cancel_scope.cancel()

    async def _read(self, connection: trio.CancelScope) -> None:
        while True:
            try:
                chunk = await self._stream.receive_some(_RECEIVE_BYTES)
            except trio.BrokenResourceError:
                chunk = b""
            if not chunk:
                self._is_released = True
                self._note_release()
                connection.cancel()
                return
            self._pending += chunk
            self._arrival.set()
            self._arrival = trio.Event()

    def _note_release(self) -> None:
        if self._exchange is not None and not self._exchange.over.is_set():
            if not self._exchange.is_complete:
                self._exchange.released_at = trio.current_time()
            self._exchange.over.set()

    # ── The request ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _next_request(self) -> ReceivedRequest | None:
        head = await self._take_until(b"\r\n\r\n")
        request_line, *lines = head.decode("latin-1").split("\r\n")
        method, path, version = request_line.split(" ")
        if version != "HTTP/1.1":
            raise ValueError(f"not a request of HTTP/1.1: {request_line!r}")
        headers = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        fields = dict(headers)
        if fields.get("transfer-encoding", "").lower() == "chunked":
            body = await self._take_chunked()
        else:
            body = await self._take(int(fields.get("content-length", "0")))
        return ReceivedRequest(method, path, headers, body)

    async def _take_chunked(self) -> bytes:
        body = bytearray()
        while size := int((await self._take_until(b"\r\n")).partition(b";")[0], 16):
            body += await self._take(size)
            await self._take(2)
        while await self._take_until(b"\r\n"):
            pass  # trailers
        return bytes(body)

    async def _take_until(self, end: bytes) -> bytes:
        while (at := self._pending.find(end)) < 0:
            if len(self._pending) > _MAX_HEAD_BYTES:
                raise ValueError(f"no end of the request's head within {_MAX_HEAD_BYTES} bytes")
            await self._arrival.wait()
        return (await self._take(at + len(end)))[: -len(end)]

    async def _take(self, count: int) -> bytes:
        while len(self._pending) < count:
            await self._arrival.wait()
        taken = bytes(self._pending[:count])
        del self._pending[:count]
        return taken

    # ── The answer ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _play(self, script: Script, exchange: ServerExchange) -> bool:
        """Play one answer. Returns whether the connection can take another request."""
        wire = script if isinstance(script, WireScript) else _as_wire(script)
        if wire.refuse:
            self._reset()
        if wire.head_pause:
            await trio.sleep(wire.head_pause)
        if wire.instead_of_head is not None:
            await self._stream.send_all(wire.instead_of_head)
            await self._send_steps(wire, wire.steps(), exchange, chunked=False)
        elif wire.framing == "length":
            steps = list(wire.steps())
            length = sum(len(step.chunk) for step in steps)
            is_short = wire.ending == "cut" and wire.cut_inside
            await self._stream.send_all(_head(wire, f"content-length: {length + 1 if is_short else length}"))
            await self._send_steps(wire, iter(steps), exchange, chunked=False)
        else:
            is_chunked = wire.framing == "chunked"
            framing = "transfer-encoding: chunked" if is_chunked else "connection: close"
            await self._stream.send_all(_head(wire, framing))
            await self._send_steps(wire, wire.steps(), exchange, chunked=is_chunked)
        return await self._end(wire, exchange)

    async def _send_steps(
        self, wire: WireScript, steps: Iterator[Step], exchange: ServerExchange, *, chunked: bool
    ) -> None:
        for step in steps:
            # A pause of nothing costs nothing here: the write below is a checkpoint already.
            if step.pause:
                await trio.sleep(step.pause)
            if not step.chunk:
                continue
            framed = b"%x\r\n%b\r\n" % (len(step.chunk), step.chunk) if chunked else step.chunk
            if wire.drip:
                for at in range(len(framed)):
                    await self._stream.send_all(framed[at : at + 1])
                    await trio.sleep(wire.drip)
            else:
                await self._stream.send_all(framed)
            exchange.chunks_sent += 1
            exchange.bytes_sent += len(step.chunk)

    async def _end(self, wire: WireScript, exchange: ServerExchange) -> bool:
        is_chunked = wire.framing == "chunked" and wire.instead_of_head is None
        if wire.ending == "stall":
            await trio.sleep_forever()
        if wire.ending == "cut":
            if is_chunked and wire.cut_inside:
                await self._stream.send_all(b"400\r\ndata: ")  # a chunk of 1024 bytes, of which six come
            if wire.cut == "rst":
                self._reset()
            return False
        if wire.instead_of_end is not None:
            await self._stream.send_all(wire.instead_of_end + wire.after_end)
            return False
        end = (b"0\r\n\r\n" if is_chunked else b"") + wire.after_end
        exchange.is_complete = True  # first: who reads the end may close in the instant in which it leaves
        if end:
            await self._stream.send_all(end)
        asked_to_close = (exchange.request.header("connection") or "").lower() == "close"
        return wire.framing != "until-close" and wire.instead_of_head is None and not asked_to_close

    def _reset(self) -> NoReturn:
        """Have the connection end by RST when it is closed."""
        self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Broken


def _as_wire(script: Script) -> WireScript:
    return WireScript(
        status=script.status,
        headers=script.headers,
        steps=script.steps,
        head_pause=script.head_pause,
        refuse=script.refuse,
        ending=script.ending,
    )


def _head(script: Script, framing: str) -> bytes:
    lines = [f"HTTP/1.1 {script.status} Scripted", *(f"{name}: {value}" for name, value in script.headers), framing]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
