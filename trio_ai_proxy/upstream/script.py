"""A scripted upstream in memory: what to answer, when, and how to break off. It plays on Trio's clock, real or virtual.

The `demo` provider is one; users' own tests get them through `trio_ai_proxy.testing`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import httpx
import trio
from typing_extensions import override

from trio_ai_proxy.upstream.http1 import PrematureEnd
from trio_ai_proxy.upstream.transport import CLOSE, READ, SENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_EXCHANGES = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """Wait `pause` seconds, then give `chunk`."""

    pause: float
    chunk: bytes


Ending = Literal["close", "cut", "stall"]


@dataclass(frozen=True, slots=True)
class Script:
    """One answer.

    status, headers  the response's head
    steps            what follows, pulled one at a time (it may be endless)
    head_pause       seconds before the head
    refuse           the connection itself fails
    ending           after the last step: close cleanly, cut the connection, or fall silent for ever
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/event-stream"),)
    steps: Callable[[], Iterator[Step]] = field(default=lambda: iter(()))
    head_pause: float = 0.0
    refuse: bool = False
    ending: Ending = "close"


@dataclass(frozen=True, slots=True)
class ScriptedExchange:
    """What the scripted upstream saw of one request. Times are Trio's, in seconds.

    released_at  when the connection was given up: closed by the caller, ended or cut by the script; None while open
    chunks_read  chunks that were read
    """

    request: httpx.Request
    opened_at: float
    released_at: float | None
    chunks_read: int


class ScriptedTransport(httpx.AsyncBaseTransport):
    """Answers each request with the script that `answer` gives for it. Its responses offer what those of
    `TrioTransport` do. It remembers the last thousand exchanges."""

    def __init__(self, answer: Callable[[httpx.Request], Script]) -> None:
        self._answer = answer
        self._played: deque[_Answer] = deque(maxlen=MAX_EXCHANGES)
        self._open: set[_Answer] = set()

    @property
    def exchanges(self) -> list[ScriptedExchange]:
        """What has been seen until now, in order of opening."""
        return [
            ScriptedExchange(answer.request, answer.opened_at, answer.released_at, answer.chunks_read)
            for answer in self._played
        ]

    @property
    def open_responses(self) -> int:
        """Requests whose connection has not been released."""
        return len(self._open)

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises `httpx.ConnectError` where the script refuses."""
        await request.aread()
        script = self._answer(request)
        answer = _Answer(request, script, self._open)
        self._played.append(answer)
        try:
            if not script.refuse and SENT in request.extensions:
                request.extensions[SENT]()
            await trio.sleep(script.head_pause)
            if script.refuse:
                raise httpx.ConnectError("the script refuses the connection")
            return httpx.Response(
                script.status,
                headers=list(script.headers),
                stream=answer,
                extensions={READ: answer.read, CLOSE: answer.close_now},
            )
        except BaseException:
            answer.close_now()
            raise


class _Answer(httpx.AsyncByteStream):
    """One script being played. A read that was cancelled may be repeated: the chunk comes when it was due."""

    def __init__(self, request: httpx.Request, script: Script, open_answers: set[_Answer]) -> None:
        self.request = request
        self.opened_at = trio.current_time()
        self.released_at: float | None = None
        self.chunks_read = 0
        self._steps = script.steps()
        self._ending = script.ending
        self._due: tuple[float, bytes] | None = None
        self._has_ended = False
        self._open_answers = open_answers
        open_answers.add(self)

    async def read(self) -> bytes:
        """The next chunk; b"" at a clean end. Raises `httpx.RemoteProtocolError` where the script cuts the
        connection."""
        while self.released_at is None:
            if self._due is None:
                step = next(self._steps, None)
                if step is None:
                    return await self._end()
                self._due = (trio.current_time() + step.pause, step.chunk)
            due, chunk = self._due
            await trio.sleep_until(due)
            self._due = None
            if chunk:
                self.chunks_read += 1
                return chunk
        if self._has_ended:
            return b""
        raise httpx.StreamClosed

    async def _end(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._ending == "stall":
            await trio.sleep_forever()
        self._has_ended = self._ending == "close"
        self.close_now()
        if self._ending == "cut":
            raise PrematureEnd("the connection was closed before the end of the body")
        return b""

    def close_now(self) -> None:
        """Release the connection. Idempotent."""
        if self.released_at is None:
            self.released_at = trio.current_time()
            self._open_answers.discard(self)

    @override
    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> bytes:
        if chunk := await self.read():
            return chunk
        raise StopAsyncIteration

    @override
    async def aclose(self) -> None:
        self.close_now()
