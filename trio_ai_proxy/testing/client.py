"""A scripted client in memory: it drives an ASGI application on Trio's clock, real or virtual, and leaves when told to.

It behaves towards the application as the gateway's own server does: `receive` says `http.disconnect` once the client is
gone or the answer is complete, and from then on `send` does nothing. A client that does not read blocks `send`.
"""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

import trio

if TYPE_CHECKING:
    from types import TracebackType

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
Phase = Literal["body-sent", "start", "first-chunk"]


class Manner(TypedDict, total=False):
    """How a request is made.

    json                sent as the body; else `body`, whole or in pieces
    body_pause          seconds before each piece of the body after the first
    leave_after         seconds after which the client leaves, counted from the call
    leave_on            … or the moment: "body-sent" (the application has taken the whole request), "start" (the head is
                        there), "first-chunk", or a number n: when the n-th chunk is there, counted from 1
    read_pause          seconds that the client takes over each chunk; the application's `send` waits for so long
    stop_reading_after  number of chunks after which it takes no more: `send` waits until the client leaves
    """

    json: Any
    body: bytes | Iterable[bytes]
    body_pause: float
    headers: Iterable[tuple[str, str]]
    leave_after: float
    leave_on: Phase | int
    read_pause: float
    stop_reading_after: int


@dataclass(slots=True)
class ClientAnswer:
    """What the client saw. Times are `trio.current_time()`.

    status       None if the client left, or the application returned, before the head
    chunks       (time, bytes) of each body message that the client took; empty messages are left out
    is_complete  whether the application said that the body is at its end, and the client saw it
    sent_at      when the whole request had been sent
    started_at   when the head came
    left_at      when the client left, None if it stayed
    returned_at  when the application returned: after `left_at`, it is how long the application took to let go
    """

    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    is_complete: bool = False
    sent_at: float | None = None
    started_at: float | None = None
    left_at: float | None = None
    returned_at: float | None = None

    @property
    def body(self) -> bytes:
        """All the chunks, joined."""
        return b"".join(chunk for _, chunk in self.chunks)

    def json(self) -> Any:
        """The body, read as JSON."""
        return json_module.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first value of that header."""
        return next((value for key, value in self.headers if key == name.lower()), None)


def open_client(app: ASGIApp, *, lifespan: bool = True) -> ScriptedClient:
    """`async with open_client(app) as client:` starts the application, and shuts it down when the block is left.

    lifespan  False for an application that does not know the lifespan protocol
    """
    return ScriptedClient(app, lifespan=lifespan)


class ScriptedClient:
    """Any number of requests to one application, from any number of tasks. See `open_client`."""

    def __init__(self, app: ASGIApp, *, lifespan: bool = True) -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._lifespan = _Lifespan(app, self._state) if lifespan else None

    async def __aenter__(self) -> Self:
        if self._lifespan is not None:
            await self._lifespan.start()
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        return self._stop(block_failed=error is not None)

    async def _stop(self, *, block_failed: bool) -> None:
        if self._lifespan is not None:
            await self._lifespan.stop(block_failed=block_failed)

    async def get(self, path: str, **manner: Unpack[Manner]) -> ClientAnswer:
        """`request("GET", …)`."""
        return await self.request("GET", path, **manner)

    async def post(self, path: str, **manner: Unpack[Manner]) -> ClientAnswer:
        """`request("POST", …)`."""
        return await self.request("POST", path, **manner)

    async def request(self, method: str, path: str, **manner: Unpack[Manner]) -> ClientAnswer:
        """One request, until the application has returned. What the application raises comes out as it is."""
        call = _Call(manner)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.leave_later, manner.get("leave_after", math.inf))
            try:
                await self._app(self._scope(method, path, call.headers), call.receive, call.send)
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that the nursery would make
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        call.answer.returned_at = trio.current_time()
        return call.answer

    def _scope(self, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
        raw_path, _, query = path.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": raw_path,
            "raw_path": raw_path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"gateway.invalid"), *headers],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "state": dict(self._state),
            "extensions": {},
        }


class _Call:
    """One request, as the application sees it."""

    def __init__(self, manner: Manner) -> None:
        body = manner.get("body", b"")
        pieces = [body] if isinstance(body, bytes) else list(body) or [b""]
        named = list(manner.get("headers", ()))
        if (json := manner.get("json")) is not None:
            pieces = [json_module.dumps(json).encode()]
            named.append(("content-type", "application/json"))
        named.append(("content-length", str(sum(map(len, pieces)))))
        self.headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in named]
        self.answer = ClientAnswer()
        self._pieces = pieces
        self._pieces_taken = 0
        self._body_pause = manner.get("body_pause", 0.0)
        self._leave_on = manner.get("leave_on")
        self._read_pause = manner.get("read_pause", 0.0)
        self._stop_reading_after = manner.get("stop_reading_after", math.inf)
        self._over = trio.Event()  # the client is gone, or has all it asked for

    def leave(self) -> None:
        if not self._over.is_set():
            self.answer.left_at = trio.current_time()
            self._over.set()

    async def leave_later(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.leave()

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if self._pieces_taken and self._pieces_taken < len(self._pieces):
            await self._sleep_unless_over(self._body_pause)
        if self._pieces_taken < len(self._pieces) and not self._over.is_set():
            return self._next_piece()
        await self._over.wait()
        return {"type": "http.disconnect"}

    def _next_piece(self) -> Message:
        piece = self._pieces[self._pieces_taken]
        self._pieces_taken += 1
        is_last = self._pieces_taken == len(self._pieces)
        if is_last:
            self.answer.sent_at = trio.current_time()
            if self._leave_on == "body-sent":
                self.leave()
        return {"type": "http.request", "body": piece, "more_body": not is_last}

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if self._over.is_set():
            return
        if message["type"] == "http.response.start":
            self._take_head(message)
        elif message["type"] == "http.response.body":
            await self._take_body(message)
        else:
            raise ValueError(f"not a message of an HTTP answer: {message['type']!r}")

    def _take_head(self, message: Message) -> None:
        answer = self.answer
        if answer.status is not None:
            raise ValueError("a second http.response.start")
        answer.status = message["status"]
        answer.headers = [(bytes(k).decode("latin-1"), bytes(v).decode("latin-1")) for k, v in message["headers"]]
        answer.started_at = trio.current_time()
        if self._leave_on == "start":
            self.leave()

    async def _take_body(self, message: Message) -> None:
        answer = self.answer
        if answer.status is None:
            raise ValueError("http.response.body before http.response.start")
        chunk = bytes(message.get("body", b""))
        if chunk:
            is_reading = len(answer.chunks) < self._stop_reading_after
            await self._sleep_unless_over(self._read_pause if is_reading else math.inf)
            if self._over.is_set():
                return
            answer.chunks.append((trio.current_time(), chunk))
            if len(answer.chunks) == (1 if self._leave_on == "first-chunk" else self._leave_on):
                self.leave()
                return
        if not message.get("more_body", False):
            answer.is_complete = True
            self._over.set()

    async def _sleep_unless_over(self, seconds: float) -> None:
        if seconds == 0:
            return
        with trio.move_on_after(seconds):
            await self._over.wait()


class _Lifespan:
    """The lifespan protocol, from the server's side."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state

    async def start(self) -> None:
        self._to_app, self._inbox = trio.open_memory_channel[Message](1)
        self._outbox, self._from_app = trio.open_memory_channel[Message](1)
        async with AsyncExitStack() as stack:
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            self._nursery.start_soon(self._run)
            await self._step("startup")
            self._running = stack.pop_all()

    async def stop(self, *, block_failed: bool) -> None:
        """Shut the application down; after a failure, cancel it."""
        # The nursery is not told of the block's exception, which would come out wrapped in a group.
        async with self._running:
            if block_failed:
                self._nursery.cancel_scope.cancel()
            else:
                await self._step("shutdown")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        async with self._outbox:
            await self._app(scope, self._inbox.receive, self._outbox.send)

    async def _step(self, name: Literal["startup", "shutdown"]) -> None:
        await self._to_app.send({"type": f"lifespan.{name}"})
        try:
            answer = await self._from_app.receive()
        except trio.EndOfChannel:
            raise RuntimeError(f"the application ended its lifespan before it had answered to {name}") from None
        if answer["type"] != f"lifespan.{name}.complete":
            raise RuntimeError(f"the application's {name} failed: {answer.get('message', '')}")
