"""What passes from the reader to the writer: the channel between them, and what bytes alone do not say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from trio_ai_proxy.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ai_proxy.chat.events import Started
    from trio_ai_proxy.relay.client import Client


class Last(bytes):
    """The last piece of an answer that is whole: the terminal may go with it."""


class Feed:
    """The reader's end of the channel, and what the writer has to know beside what comes through it.

    client      the client itself, to which lone chunks may go past the writer
    started     who answers, once that is known: a made-up usage chunk needs it
    usage_sent  the client has been given the provider's own usage
    dropped     fields of the request that the provider has not been told
    passed_at   when the client was last sent something past the writer
    held_until  when the writer takes what is held back, unless the reader has passed it on by then
    patience    what the writer waits in for the next piece, where it must not wait for ever
    """

    __slots__ = (
        "_release", "_to_writer", "client", "dropped", "held_until", "passed_at", "patience", "started", "usage_sent",
    )  # fmt: skip

    def __init__(self, to_writer: trio.MemorySendChannel[bytes], client: Client) -> None:
        self._to_writer = to_writer
        self.client = client
        self.started: Started | None = None
        self.usage_sent = False
        self.dropped: tuple[str, ...] = ()
        self.passed_at = -math.inf
        self.held_until = math.inf
        self.patience: trio.CancelScope | None = None
        self._release: Callable[[], bytes] | None = None

    @property
    def writer_is_idle(self) -> bool:
        """The writer has brought everything to the client, and waits."""
        return self._to_writer.statistics().tasks_waiting_receive > 0

    def send_nowait(self, out: bytes) -> bool:
        """Hand `out` to the writer if it waits; whether it did."""
        try:
            self._to_writer.send_nowait(out)
        except trio.WouldBlock:
            return False
        except trio.BrokenResourceError:
            raise _unwritten() from None
        return True

    async def send(self, out: bytes) -> None:
        """Hand `out` to the writer, at the pace of the client."""
        try:
            await self._to_writer.send(out)
        except trio.BrokenResourceError:
            raise _unwritten() from None

    def hold(self, until: float, release: Callable[[], bytes]) -> None:
        """Something is held back: at `until` the writer, which waits meanwhile, takes what `release` gives then."""
        self.held_until, self._release = until, release
        if self.patience is not None:
            self.patience.deadline = min(self.patience.deadline, until)

    def hold_no_more(self) -> None:
        """It has been passed on, or thrown away."""
        self.held_until, self._release = math.inf, None

    def take_held(self) -> bytes:
        """What has been held back until now; nothing if there is none, or its time has not come."""
        release = self._release
        if release is None or self.held_until > trio.current_time():
            return b""
        self.hold_no_more()
        return release()

    def close(self) -> None:
        """Nothing more comes."""
        self._to_writer.close()


def _unwritten() -> UpstreamError:
    # The writer has ended, which it does on its own only when it has failed; the nursery tells why.
    return UpstreamError("The answer could not be written.")
