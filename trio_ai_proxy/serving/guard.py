"""What the connections of one served application have in common: their limits, and who is open now."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING, Literal

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.trio.worker_context import WorkerContext

    from trio_ai_proxy.serving.connection import GuardedServer


def no_report(event: str, **facts: object) -> None:
    """Say nothing."""


@dataclass(eq=False)
class Guard:
    """Limits of the connections of one application, and the set of those connections.

    stall             seconds for which a client may take no byte while we have bytes for it
    keep_alive        seconds for which a connection may be idle; also the time for a request's whole head
    max_head_bytes    bound of a request line and headers together
    max_early_bytes   bound of what a client may send before its current answer is complete (pipelining)
    max_unread_bytes  bound of request body that the application has not asked for yet
    h2c               what an `Upgrade: h2c` gets: refused with a 400, or ignored as RFC 9110 section 7.8 allows
    report            called with an event name and facts; where log lines come from
    """

    stall: float = 30.0
    keep_alive: float = 75.0
    max_head_bytes: int = 32 * 1024
    max_early_bytes: int = 64 * 1024
    max_unread_bytes: int = 1024 * 1024
    linger_seconds: float = 2.0
    linger_bytes: int = 4 * 1024 * 1024
    h2c: Literal["refuse", "ignore"] = "refuse"
    report: Callable[..., None] = no_report
    connections: set[GuardedServer] = field(default_factory=set)
    draining: bool = False
    context: WorkerContext | None = None
    context_seen: trio.Event = field(default_factory=trio.Event)
    _date: bytes = b""
    _date_at: int = -1

    def opened(self, connection: GuardedServer) -> None:
        """A connection begins. The first one shows us the worker that serves it, and so how to learn of its shutdown."""
        self.connections.add(connection)
        if self.context is None:
            self.context = connection.context
            self.context_seen.set()

    def closed(self, connection: GuardedServer) -> None:
        """A connection has ended."""
        self.connections.discard(connection)

    def date_header(self) -> bytes:
        """The header that says when, made once a second."""
        now = int(time())
        if now != self._date_at:
            self._date_at = now
            self._date = b"date: %b\r\n" % formatdate(now, usegmt=True).encode("ascii")
        return self._date

    def drain(self) -> None:
        """No connection is kept for another request: idle ones close now, the others after their answer."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()
