"""How much: a request body, gathered by the request's one receiver up to a limit."""

from __future__ import annotations

import trio

from trio_ai_proxy.errors import BodyTooLarge


class Body:
    """A request body in the making. `ready` is set when it is whole, when it has become too large, or when the client has
    gone before it was; past its limit it is dropped as it comes, so that the refusal can still be delivered."""

    __slots__ = ("_chunks", "_limit", "complete", "ready", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self.size = 0
        self.complete = False
        self.ready = trio.Event()

    def add(self, chunk: bytes, last: bool) -> None:
        """Take what came."""
        self.size += len(chunk)
        if self.size <= self._limit:
            if chunk:
                self._chunks.append(chunk)
        else:
            self._chunks.clear()
            self.ready.set()
        if last:
            self.complete = True
            self.ready.set()

    def content(self) -> bytes:
        """The whole body, once `ready` is set. Raises `BodyTooLarge`."""
        if self.size > self._limit:
            raise BodyTooLarge(f"The request body is larger than {self._limit} bytes.")
        whole = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        return whole
