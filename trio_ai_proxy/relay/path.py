"""From a provider's chunks to the client's bytes, whatever stands between: what every path has in common.

Pure. It never raises for what a provider does wrong: a broken frame, a cut stream and a reported error are all `Failed` in
`events` and `error`, so that what came before in the same chunk is neither lost nor unpaid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import msgspec

from trio_ai_proxy.chat.events import Event, Failed
from trio_ai_proxy.errors import TruncatedStream, UpstreamError, UpstreamProtocolError

if TYPE_CHECKING:
    from trio_ai_proxy.framing.frame import Frame, Framer
    from trio_ai_proxy.pipeline import Stage


class Batch(msgspec.Struct):
    """What one chunk came to.

    out     whole frames for the client, in order, joined; a batch with an error has those that came before it
    events  what the frames say, those included that the client does not see
    alive   whether the sender showed life: a frame or a comment was completed
    ended   whether the stream is over and whole
    error   why it is over and not whole, or None
    new     those of the events that `out` says, where they are not all: what the client had from an earlier attempt is left out
    """

    out: bytes = b""
    events: list[Event] = []
    alive: bool = False
    ended: bool = False
    error: UpstreamError | None = None
    new: list[Event] | None = None

    @property
    def given(self) -> list[Event]:
        """What the client learns from `out`."""
        return self.events if self.new is None else self.new


class Path(Protocol):
    """One streamed answer on its way from a provider to a client.

    usage_sent  whether the client has been given the provider's own usage
    malformed   events that made no sense and were passed over
    """

    usage_sent: bool
    malformed: int

    def feed(self, chunk: bytes) -> Batch: ...

    def close(self) -> Batch:
        """The provider has closed the stream: what is left of it, and whether it was whole. After `ended` or `error` there
        is nothing more."""
        ...


class FramedPath(ABC):
    """The half of a path that cuts frames and has them decoded. A path says in `_pass` what becomes of them.

    malformed  whole frames that made no sense and were passed over; `malformed_limit` bounds them
    """

    def __init__(self, framer: Framer, decoder: Stage[Frame, Event], *, malformed_limit: int = 0) -> None:
        self.usage_sent = False
        self.malformed = 0
        self._malformed_limit = malformed_limit
        self._framer = framer
        self._decoder = decoder
        self._is_over = False

    def feed(self, chunk: bytes) -> Batch:
        if self._is_over:
            return Batch()
        try:
            frames = self._framer.feed(chunk)
        except UpstreamProtocolError as error:
            return self._end(Batch(), error)
        if not frames:
            return Batch(alive=self._framer.alive)
        return self._pass(frames)

    def close(self) -> Batch:
        if self._is_over:
            return Batch()
        try:
            frames = self._framer.close()
        except UpstreamProtocolError as error:
            return self._end(Batch(), error)
        batch = self._pass(frames)
        if batch.ended or batch.error is not None:
            return batch
        try:
            rest = self._decoder.close()
        except UpstreamProtocolError as error:
            return self._end(batch, error)
        self._take(rest, batch)
        self._is_over = True
        # Some providers have no word of their own for a failure, and only their end shows that there was one.
        batch.error = next((event.error for event in rest if isinstance(event, Failed)), None)
        batch.ended = batch.error is None
        return batch

    @abstractmethod
    def _pass(self, frames: list[Frame]) -> Batch:
        """What `frames` come to."""

    def _forgive(self, frame: Frame, error: UpstreamProtocolError) -> bool:
        """Whether a frame that could not be read is passed over: one whole event gone wrong in an otherwise whole stream. A
        stream that stops in the middle of one is not whole."""
        if not frame.whole or isinstance(error, TruncatedStream) or self.malformed >= self._malformed_limit:
            return False
        self.malformed += 1
        return True

    def _take(self, events: list[Event], batch: Batch) -> None:
        """What the decoder still had to say when the stream was over."""
        batch.events += events

    def _end(self, batch: Batch, error: UpstreamError) -> Batch:
        self._is_over = True
        batch.events.append(Failed(error))
        batch.error = error
        return batch
